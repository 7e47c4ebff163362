# Fuzz targets (tests/README.md): tests/fuzz/fuzz_NAME.c, one program each, linked with libFuzzer, AddressSanitizer and
# UndefinedBehaviorSanitizer. tests/fuzz/run.sh builds them with clang in a folder of their own.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN := $(FUZZ_SRC:%.c=$(BUILD)/%)
# What tests/fuzz/fuzz.c catches: the end of the process, and what a call that ends so leaves open. yajl is linked
# statically, so that its memory counts too.
WRAPPED  := exit malloc calloc realloc free strdup vasprintf fopen fclose mmap munmap \
            pthread_mutex_lock pthread_mutex_unlock folder_lock

$(FUZZ_BIN): $(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/fuzz.o $(LINK_train)
	@echo "LD $@"
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer $(WRAPPED:%=-Wl,--wrap=%) $(sort $^) -o $@ $(LDLIBS:-lyajl=-l:libyajl_s.a)

.PHONY: fuzz fuzz-programs
fuzz-programs: $(FUZZ_BIN)
fuzz: setup ## fuzz one file format (TARGET=coco SECONDS=60; without TARGET: lists them)
	@./setup.sh --fuzz
	@tests/fuzz/run.sh '$(TARGET)' '$(or $(SECONDS),60)'

-include $(FUZZ_BIN:=.d) $(BUILD)/tests/fuzz/fuzz.d
