# cocogold: `make help` lists what this file does.

BACKEND   ?= $(if $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null),cuda,cpu)
PRECISION ?= $(if $(filter cuda,$(BACKEND)),bf16,fp32)
BUILD     := build/$(BACKEND)-$(PRECISION)
CODE      := $(BACKEND:ptx=cuda)
DEBUG     ?= 0

ifeq ($(origin CC),default)
CC      := gcc
endif
ifeq ($(origin CXX),default)
CXX     := g++
endif
comma   := ,
PKGS    := openblas hdf5-serial yajl popt cairo openssl libpcre2-8 libutf8proc
MARCH   ?= native
# a comma inside of $(if ...)
, := ,
WARN    := -Wall -Wextra -Werror
OPT     := $(if $(filter 1,$(DEBUG)),-O1 -fsanitize=address$(comma)undefined -fno-omit-frame-pointer -DDEBUG_GUARDS,-O3)
CPPFLAGS = -I. -D_GNU_SOURCE -DBACKEND_$(CODE) -DPRECISION_$(PRECISION) $(shell pkg-config --cflags $(PKGS) 2>/dev/null) -I/usr/include/stb
CFLAGS   = -std=gnu11 -g $(OPT) -march=$(MARCH) -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp $(WARN) -MMD -MP
LDLIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread -lm

# The house: a folder may include only those before it (data: util alone).
FOLDERS := util kernels model data eval train bench
include kernels/cuda.mk
include kernels/comm.mk
include tests/ptx/ptx.mk
SRC_C   := $(filter-out $(OTHER_BACKEND),$(foreach f,$(FOLDERS),$(wildcard $(f)/*.c)))
OBJ     := $(SRC_C:%.c=$(BUILD)/%.o) $(KERNEL_CU_OBJ) $(LAB_CU_OBJ)
include tests/tests.mk

.PHONY: all program setup demo reproduce test test-programs test-reference bench help clean format
.DEFAULT_GOAL := all
all: setup program ## build ./cocogold for the best backend of this machine (BACKEND=cpu|cuda|emu PRECISION=fp32|bf16)

program: $(BUILD)/cocogold
	@ln -sfn $(BUILD)/cocogold cocogold

# V=1 shows the commands.
Q := $(if $(V),,@)

$(BUILD)/cocogold: $(BUILD)/cocogold.o $(OBJ)
	@echo "LD $@"
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "CC $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# stb_image_write.h shifts bits out of an int, which UndefinedBehaviorSanitizer would report.
$(BUILD)/data/image.o: private OPT += -fno-sanitize=shift

# Objects are rebuilt when the compiler or its flags change.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(CPPFLAGS) $(CFLAGS)$(KERNEL_FLAGS)' | cmp -s - $@ || echo '$(CC) $(CPPFLAGS) $(CFLAGS)$(KERNEL_FLAGS)' > $@
FORCE:

setup: ## install what is missing from the distribution (asks for nothing)
	@./setup.sh

demo: all ## train and evaluate a small model on procedural scenes (TARGET=overlay|mask)
	@TARGET=$(or $(TARGET),overlay) train/experiments/demo.sh

reproduce: all ## the 2 x 2 of target and classes, three seeds: does the original's failure appear, what fixes it
	@train/experiments/failure_and_fix.sh

test: all ## set-up, then every test that needs no PyTorch
	@$(MAKE) --no-print-directory test-programs
	@mkdir -p build/test-logs
	@bash -o pipefail -c 'tests/run.sh $(TEST_BIN) $(sort $(wildcard tests/cli/test_*.sh tests/emu/test_*.sh tests/ptx/test_*.sh)) | tee build/test-logs/test.log'; \
	  code=$$?; tail -n 1 build/test-logs/test.log > build/test-logs/summary-test; exit $$code

test-programs: $(TEST_BIN)

test-reference: all ## set-up with PyTorch in .venv, then the tests against it
	@./setup.sh --reference
	@mkdir -p build/test-logs
	@bash -o pipefail -c 'tests/run.sh $(patsubst %,pytest:%,$(sort $(wildcard tests/reference/test_*.py))) | tee build/test-logs/reference.log'; \
	  code=$$?; tail -n 1 build/test-logs/reference.log > build/test-logs/summary-test-reference; exit $$code

bench: all ## time kernels and training steps against the roofline, with .venv also against PyTorch
	@./cocogold bench all
	@./cocogold bench step --preset mini
	@./cocogold bench step --preset quarter-sd2
	@if [ -x .venv/bin/python ]; then .venv/bin/python bench/compare.py; fi

clean: ## remove build/
	rm -rf build cocogold

format: ## run clang-format over the sources
	clang-format -i cocogold.c $(foreach f,$(FOLDERS),$(wildcard $(f)/*.[ch] $(f)/*.cu $(f)/*.cuh)) $(wildcard tests/*/*.[ch])

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

-include $(OBJ:.o=.d) $(BUILD)/cocogold.d $(TEST_BIN:=.d)
