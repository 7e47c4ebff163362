# Unit tests: tests/FOLDER/test_*.c, one program each (cmocka), linked with FOLDER and the folders that it may use.

TEST_SRC := $(wildcard tests/util/test_*.c tests/kernels/test_*.c tests/model/test_*.c tests/data/test_*.c \
              tests/eval/test_*.c tests/train/test_*.c tests/bench/test_*.c)
TEST_BIN := $(TEST_SRC:%.c=$(BUILD)/%)

objects_of = $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(1)/cmd_%.c $(OTHER_BACKEND),$(wildcard $(1)/*.c)))
LINK_util    := $(call objects_of,util)
LINK_kernels := $(LINK_util) $(call objects_of,kernels) $(KERNEL_CU_OBJ)
LINK_model   := $(LINK_kernels) $(call objects_of,model)
LINK_data    := $(LINK_util) $(call objects_of,data)
LINK_eval    := $(LINK_model) $(call objects_of,data) $(call objects_of,eval)
LINK_train   := $(LINK_eval) $(call objects_of,train)

define test_rule
$(BUILD)/tests/$(1)/%: $(BUILD)/tests/$(1)/%.o $$(LINK_$(1)) $$(if $$(filter kernels model,$(1)),$(BUILD)/model/safetensors.o)
	@echo "LD $$@"
	$$(Q)$$(CC) $$(CFLAGS) $$(sort $$^) -o $$@ $$(LDLIBS) -lcmocka
endef
$(foreach f,util kernels model data eval train,$(eval $(call test_rule,$(f))))

$(BUILD)/tests/bench/%: $(BUILD)/tests/bench/%.o $(BUILD)/bench/bench.o $(BUILD)/bench/lab.o $(LAB_CU_OBJ) $(LINK_kernels)
	@echo "LD $@"
	$(Q)$(CC) $(CFLAGS) $(sort $^) -o $@ $(LDLIBS) -lcmocka

.SECONDARY: $(TEST_SRC:%.c=$(BUILD)/%.o)
