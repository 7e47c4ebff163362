# cocogold. `make help` lists the targets.
#
# Targets for users (demo, test, bench, ...) first run setup.sh and then call make again, so that the makefiles look for
# pkg-config, MPI, nvcc and NCCL after they have been installed. Plain `make` installs nothing; if something is missing,
# it names it and the command that installs it.

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif

comma := ,

# ---- Backend and build folders ---------------------------------------------------------------------------------------
# BACKEND: cuda if the machine has nvcc and a GPU of Ampere or newer, else cpu. emu and ptx run the CUDA kernels without a
# GPU, for tests. NVCC may have options. CARDS: the compute capabilities, 80 for 8.0, without those of older GPUs. `command`
# is the shell's; an old make calls no shell without a redirection.
NVCC      ?= nvcc
HAVE_NVCC := $(shell command -v $(firstword $(NVCC)) 2>/dev/null)
GPU       := $(shell nvidia-smi -L 2>/dev/null | grep -m 1 '^GPU ')
CARDS     := $(filter-out 5% 6% 7%,$(subst .,,$(if $(GPU),$(shell nvidia-smi --query-gpu=compute_cap --format=csv$(comma)noheader))))
ifndef BACKEND
BACKEND   := $(if $(and $(CARDS),$(HAVE_NVCC)),cuda,cpu)
endif
# Why a machine with a GPU builds for the CPU; else empty.
NO_CUDA   := $(if $(GPU),$(if $(and $(CARDS),$(HAVE_NVCC)),,this machine has a GPU ($(GPU)) but \
               $(if $(CARDS),no $(NVCC) (CUDA 12.4 or newer),none of Ampere (sm_80) or newer)))
PRECISION ?= $(if $(filter cuda,$(BACKEND)),bf16,fp32)

# DEBUG=1 builds with AddressSanitizer, UndefinedBehaviorSanitizer and guarded memory, in separate folders; SANITIZE
# names other sanitizers. BUILD_SUFFIX names the folders for other compilers or flags. WERROR=1 (CI): warnings are
# errors. V=1 shows the commands.
DEBUG        ?= 0
SANITIZE     ?= $(if $(filter 1,$(DEBUG)),address$(comma)undefined)
BUILD_SUFFIX ?= $(if $(filter 1,$(DEBUG)),-debug)
BUILD        := build/$(BACKEND)-$(PRECISION)$(BUILD_SUFFIX)
# Objects that do not depend on the backend (all but kernels/) are built once per precision.
HOST         := build/host-$(PRECISION)$(BUILD_SUFFIX)
Q            := $(if $(V),,@)

# ---- Compilers and libraries -----------------------------------------------------------------------------------------
ifeq ($(origin CC),default)
CC      := gcc
endif
ifeq ($(origin CXX),default)
CXX     := g++
endif
MARCH   ?= native
WARN    ?= -Wall -Wextra -Wno-missing-field-initializers $(if $(SANITIZE),-Wno-pass-failed) $(if $(WERROR),-Werror)
OPT     := $(if $(SANITIZE),-O1 -fsanitize=$(SANITIZE) -fno-omit-frame-pointer,-O3) $(if $(filter 1,$(DEBUG)),-DDEBUG_GUARDS)
# one_of MODULES: the first that pkg-config knows.
one_of   = $(firstword $(foreach p,$(1),$(if $(shell pkg-config --exists $(p) 2>/dev/null && echo yes),$(p))))
PKGS    := $(or $(call one_of,hdf5-serial hdf5),hdf5) yajl popt cairo libpng openssl libpcre2-8 libutf8proc
LIBRARY_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null) -I/usr/include/stb
LIBRARY_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
# Where the dynamic linker finds libraries outside of the system's folders (PKG_CONFIG_PATH).
LIBRARY_PATHS  := $(patsubst -L%,-Wl$(comma)-rpath$(comma)%,$(filter-out -L/usr/%,$(filter -L%,$(LIBRARY_LIBS))))
SYMBOLS        := -g
CODE_FLAGS      = $(SYMBOLS) $(OPT) $(if $(BUNDLE),-fPIC) -march=$(MARCH) -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp $(WARN)
CPPFLAGS        = -I. -D_GNU_SOURCE -DPRECISION_$(PRECISION) $(LIBRARY_CFLAGS)
CFLAGS          = -std=gnu11 $(CODE_FLAGS) -MMD -MP
LDLIBS          = $(LIBRARY_LIBS) -lpthread -lm $(BUNDLED) $(LIBRARY_PATHS)
# A bundle's folder (bench/bundle.mk), also for the libraries that libraries need.
BUNDLED        := -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/../lib'

# A bundle of BACKEND=cuda has one copy of the kernels, the library SHARED, instead of one in each program.
unshared = $(if $(SHARED),$(filter-out $(IN_SHARED) $(SHARED),$(1)) $(SHARED),$(1))
SHARED   = $(if $(BUNDLE),$(BUILD)/libcocogold-$(PRECISION).so)

# ---- Sources ---------------------------------------------------------------------------------------------------------
# A folder may include headers only of the folders before it (data: only of util).
# PLAIN: the kernels as plain loops, which only tests link.
PLAIN      := kernels/reference.c
FOLDERS    := util kernels/runtime kernels model data eval eval/report train bench
objects_of = $(foreach c,$(filter-out $(OTHER_BACKEND) $(PLAIN),$(wildcard $(1)/*.c)),$(call object,$(c:.c=.o)))
object     = $(if $(filter kernels/% bench/lab.o tests/%,$(1)),$(BUILD),$(HOST))/$(1)

.PHONY: all program
.DEFAULT_GOAL := all
all: program ## build ./cocogold for the best backend of this machine (BACKEND=cpu|cuda|emu PRECISION=fp32|bf16 MPI=)

include kernels/cuda.mk
include kernels/runtime/comm.mk
include tests/ptx/ptx.mk
OBJ := $(foreach f,$(FOLDERS),$(call objects_of,$(f))) $(KERNEL_CU_OBJ) $(LAB_CU_OBJ)
include tests/tests.mk
include tests/fuzz/fuzz.mk
include bench/bundle.mk

program: $(BUILD)/cocogold
	@$(if $(BUILD_SUFFIX),,ln -sfn $(BUILD)/cocogold cocogold)

$(BUILD)/cocogold: $(HOST)/cocogold.o $(OBJ) $(SHARED)
	@echo "LD $@"
	$(Q)$(CC) $(CFLAGS) $(call unshared,$^) -o $@ $(LDLIBS)

$(HOST)/%.o: %.c $(HOST)/flags
	@mkdir -p $(@D)
	@echo "CC $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

# stb shifts bits out of an int, and adds or copies 0 bytes at null pointers, which UndefinedBehaviorSanitizer would report.
$(HOST)/data/image.o: private OPT += -fno-sanitize=shift,pointer-overflow,nonnull-attribute

# Objects that depend on the backend: kernels/, the kernel lab, tests. Tests use -O2: they are built more than run.
$(BUILD)/tests/%.o: private OPT := $(OPT:-O3=-O2)
# Products are rounded before they are added: what is 0 on paper, as the gradient of a softmax over one key, is 0.
$(PLAIN:%.c=$(BUILD)/%.o): private CFLAGS += -ffp-contract=off
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "CC $<$(if $(filter-out cpu,$(BACKEND)), ($(BACKEND)))"
	$(Q)$(CC) $(CPPFLAGS) -DBACKEND_$(CODE) $(CFLAGS) -c $< -o $@

# Objects are rebuilt when a compiler or its flags change. Nothing is built if something is missing.
$(HOST)/flags: COMPILED = $(CC) $(CPPFLAGS) $(CFLAGS)
$(BUILD)/flags: COMPILED = $(CC) $(CPPFLAGS) $(CFLAGS) $(KERNEL_FLAGS)
$(HOST)/flags $(BUILD)/flags: FORCE | tools
	@mkdir -p $(@D)
	@echo '$(COMPILED)' | cmp -s - $@ || echo '$(COMPILED)' >$@
.PHONY: FORCE tools
FORCE:
tools:
ifeq ($(BACKEND)-$(PRECISION),cpu-bf16)
	@echo "make: BACKEND=cpu has fp32 only: BACKEND=emu PRECISION=bf16 builds for emulated CUDA" >&2; exit 1
endif
	@./setup.sh --check $(BACKEND)
ifneq ($(and $(NO_CUDA),$(filter cpu,$(BACKEND))),)
	@echo "make: $(NO_CUDA): building for the CPU"
endif

# ---- Targets for users -----------------------------------------------------------------------------------------------
.PHONY: setup demo reproduce bench clean format format-check compile_commands.json help
setup: ## install missing packages of the distribution (with root or sudo)
	@./setup.sh
ifeq ($(BACKEND),cuda)
	@./setup.sh --cuda
endif

demo: setup ## train and evaluate a small model on procedural scenes (TARGET=overlay|mask)
	@$(MAKE) --no-print-directory program
	@train/experiments/demo.sh

reproduce: setup ## why the mask fails: target x leak of the schedule, dose, starts, words; three seeds
	@$(MAKE) --no-print-directory program
	@train/experiments/failure_and_fix.sh

bench: setup ## time kernels and training steps; compare with the roofline and, on a CPU with .venv, with PyTorch
	@$(MAKE) --no-print-directory program
	@./cocogold bench all
	@./cocogold bench step --preset mini
	@./cocogold bench step --preset quarter-sd2
ifeq ($(BACKEND),cpu)
	@if [ -e .venv/requirements.txt ]; then .venv/bin/python bench/compare.py; fi
endif

clean: ## remove build/
	rm -rf build cocogold

SOURCES = $(shell find cocogold.c $(FOLDERS) tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' | sort -u)
format: ## run clang-format over all sources
	clang-format -i $(SOURCES)
format-check: ## check that `make format` would change nothing
	@clang-format --dry-run -Werror $(SOURCES)

compile_commands.json: ## write the compile command of each C file, for editors
	@{ echo '['; for file in $(filter-out $(OTHER_BACKEND),$(wildcard *.c $(FOLDERS:%=%/*.c))) $(TEST_SRC); do \
	  printf '%s{"directory": "%s", "file": "%s", "command": "%s -c %s"}' "$$separator" '$(CURDIR)' "$$file" \
	    '$(CC) $(CPPFLAGS) -DBACKEND_$(CODE) $(filter-out -MMD -MP,$(CFLAGS))' "$$file"; separator=', '; done; echo ']'; } >$@

help: ## print this list
	@cat $(MAKEFILE_LIST) | sed -nE 's/^([a-z_.-]+):.*## (.*)/\1\t\2/p' | expand -t 24

-include $(OBJ:.o=.d) $(PLAIN:%.c=$(BUILD)/%.d) $(HOST)/cocogold.d $(TEST_BIN:=.d)
