# The tests: how they are built, and which of them `make check`, `test` and `test-all` run. tests/run.sh runs them in
# parallel; tests/README.md describes the folders.

# ---- Unit tests: tests/FOLDER/test_*.c, one program each (cmocka), linked with FOLDER and what it may use ----------------
TESTED   := util runtime kernels model data eval train bench
TEST_SRC := $(wildcard $(TESTED:%=tests/%/test_*.c))
TEST_BIN := $(TEST_SRC:%.c=$(BUILD)/%)

# Unless the user sets BACKEND, the tests below take the CPU's build, also on a machine with a GPU: some of them give host
# memory to kernels, and many run at a time. `make gpu-check` runs those that are made for a GPU.
by_hand   := $(filter command line environment,$(origin BACKEND))
FOR_TESTS := $(if $(by_hand),,BACKEND=cpu PRECISION=fp32)
UNIT_BIN  := $(if $(by_hand),$(TEST_BIN),$(TEST_SRC:%.c=build/cpu-fp32$(BUILD_SUFFIX)/%))

linked       = $(filter-out $(HOST)/$(1)/cmd_%,$(call objects_of,$(1)))
LINK_util    := $(call linked,util)
LINK_kernels := $(LINK_util) $(call linked,kernels/runtime) $(call linked,kernels) $(KERNEL_CU_OBJ)
LINK_runtime := $(LINK_kernels)
LINK_model   := $(LINK_kernels) $(call linked,model)
LINK_data    := $(LINK_util) $(call linked,data)
LINK_eval    := $(LINK_model) $(call linked,data) $(call linked,eval) $(call linked,eval/report)
LINK_train   := $(LINK_eval) $(call linked,train)
LINK_bench   := $(HOST)/bench/bench.o $(HOST)/bench/lab_torch.o $(BUILD)/bench/lab.o $(HOST)/eval/stats.o $(LAB_CU_OBJ) $(LINK_kernels)

define test_rule
$(BUILD)/tests/$(1)/%: $(BUILD)/tests/$(1)/%.o $$(LINK_$(1)) $$(if $$(filter kernels model,$(1)),$(HOST)/model/safetensors.o) \
    $$(if $$(filter kernels,$(1)),$(PLAIN:%.c=$(BUILD)/%.o)) $(SHARED)
	@echo "LD $$@"
	$$(Q)$$(CC) $$(CFLAGS) $$(call unshared,$$(sort $$^)) -o $$@ $$(LDLIBS) -lcmocka
endef
$(foreach f,$(TESTED),$(eval $(call test_rule,$(f))))
.PRECIOUS: $(BUILD)/tests/%.o

# Tests that run under emulation: those of the kernels, of whole models and of a training step, and the emulation's own
# test, with planted faults. tests/cli/test_comm.sh and tests/emu/test_ranks.sh test ranks, tests/emu/test_program.sh
# the whole program.
EMU_KERNELS := $(basename tests/runtime/test_device.c \
                 $(filter-out %/test_reference.c,$(wildcard tests/kernels/test_*.c tests/bench/test_*.c)))
EMU_MODELS  := $(addprefix tests/,model/test_unet train/test_diffusion train/test_text_diffusion model/test_fixtures model/test_vae model/test_clip \
                 model/test_params)

# ---- The tests of each target ----------------------------------------------------------------------------------------
# Units of tests/run.sh, the long ones first. A unit "alone:..." runs without others in parallel: tests that start
# several ranks, kill a process at a certain moment, or measure time.
emu = $(3:%=emu:$(1):$(2):%)
LONG        := $(filter %/test_rendezvous %/test_unet,$(UNIT_BIN))
UNITS_check := $(LONG) $(filter-out $(LONG),$(UNIT_BIN)) $(addprefix tests/cli/test_,pipeline.sh errors.sh help.sh) \
               tests/kernels/test_contract.sh
UNITS_emu   := $(call emu,bf16,1,$(EMU_MODELS)) $(call emu,bf16,3,$(EMU_KERNELS) tests/emu/test_emu) \
               $(call emu,fp32,1,$(EMU_KERNELS) tests/emu/test_emu)
MEASURED    := tests/cli/test_ranks.sh tests/cli/test_comm.sh tests/cli/test_threads.sh
UNITS_test  := tests/build/test_nvcc.sh $(UNITS_emu) tests/emu/test_program.sh $(SIM_TEST) \
               $(filter-out $(UNITS_check) $(MEASURED) %/test_slurm.sh,$(sort $(wildcard tests/cli/test_*.sh))) \
               $(UNITS_check) tests/build/test_setup.sh $(addprefix alone:,tests/emu/test_launched.sh $(MEASURED))
# The tests that `make test-all` adds to `make test`.
UNITS_more  := $(call emu,fp32,1,$(EMU_MODELS)) $(call emu,fp32,3,$(EMU_KERNELS)) \
               $(addprefix alone:,tests/fuzz/run.sh tests/emu/test_ranks.sh tests/emu/test_mutations.sh tests/ptx/test_ptx.sh tests/cli/test_slurm.sh \
                 $(sort $(filter-out %/test_nvcc.sh %/test_setup.sh,$(wildcard tests/build/test_*.sh))))
UNITS_reference := $(patsubst %,pytest:%,$(filter-out %/test_full_size.py,$(sort $(wildcard tests/reference/test_*.py)))) \
               alone:pytest:tests/reference/test_full_size.py

# T=WORD selects tests whose names contain it. BACKEND, if set by the user, selects the tests of that backend.
of_emu    = $(filter emu:$(if $(filter command line environment,$(origin PRECISION)),$(PRECISION):)%,$(1))
of_backend = $(if $(filter emu,$(and $(by_hand),$(BACKEND))),$(call of_emu,$(1)),$(if $(by_hand),$(filter-out emu:%,$(1)),$(1)))
chosen    = $(foreach u,$(call of_backend,$(1)),$(if $(or $(if $(T),,all),$(findstring $(T),$(u))),$(u)))

# The programs of the chosen units: those of this backend, and the emulated ones of one precision.
programs  = $(filter $(UNIT_BIN) $(SIM)/%,$(1))
emulated  = $(addprefix build/emu-$(2)/,$(foreach u,$(filter emu:$(2):%,$(1)),$(lastword $(subst :, ,$(u)))))
# Programs that the scripts and reference tests among $(1) use.
helpers   = $(if $(filter pytest:% %/emu/test_program.sh,$(1)),$(addprefix build/cpu-fp32/tests/,model/dump data/dump data/difference train/step util/half))
emu_fp32  = $(if $(filter %/test_comm.sh,$(1)),build/emu-fp32/tests/runtime/test_comm build/emu-fp32/tests/emu/test_nccl) \
            $(if $(filter %/emu/test_ranks.sh %/emu/test_program.sh,$(1)),build/emu-fp32/cocogold)
emu_bf16  = $(if $(filter %/emu/test_program.sh,$(1)),build/emu-bf16/cocogold)

# ---- Targets ---------------------------------------------------------------------------------------------------------
.PHONY: check test test-all test-reference test-asan test-emu test-units test-programs
check: setup ## set-up, then the CPU's unit tests, help, errors and one short pipeline (times: tests/README.md)
	@$(MAKE) --no-print-directory test-units TIER=check

test: setup ## set-up, then all tests that need no PyTorch (T=WORD, BACKEND=cpu|emu: only some)
	@$(MAKE) --no-print-directory test-units TIER=test

test-emu: setup ## run the CUDA kernels on emulated threads, fp32 and bf16 (tests/emu)
	@$(MAKE) --no-print-directory test-units TIER=emu

test-reference: ## set-up with PyTorch in .venv, then the tests that compare with it
	@./setup.sh --reference
	@$(MAKE) --no-print-directory test-units TIER=reference

test-all: setup ## everything: test, reference, sanitizers, PTX, mutants, architectures, compilers, a bare machine (CI)
	@rm -f build/test-logs/summary-*
	@code=0; for part in test test-more test-reference test-asan; do \
	  echo "== make $$part"; $(MAKE) --no-print-directory $$part || code=1; done; \
	  cat build/test-logs/summary-* | awk '{ p += $$1; f += $$3 } END { print p " passed, " f " failed" }'; exit $$code

.PHONY: test-more
test-more: setup
	@./setup.sh --fuzz || true
	@$(MAKE) --no-print-directory test-units TIER=more

test-asan: setup ## the unit tests with AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory DEBUG=1 BACKEND=cpu PRECISION=fp32 test-units TIER=asan
UNITS_asan := $(SIM_TEST) $(filter-out %/test_unet,$(UNIT_BIN)) # it takes three minutes there; test_fixtures runs a whole UNet too

# After set-up: builds the programs of TIER's units, one backend and precision after the other, and runs the units.
UNITS  = $(call chosen,$(UNITS_$(TIER)))
others = $(filter-out emu:%,$(UNITS))
test-units:
	@$(if $(others),$(MAKE) --no-print-directory $(FOR_TESTS) program $(call programs,$(UNITS)))
	@$(if $(call helpers,$(UNITS)),$(MAKE) --no-print-directory BACKEND=cpu PRECISION=fp32 $(call helpers,$(UNITS)))
	@$(foreach p,fp32 bf16,$(if $(strip $(call emulated,$(UNITS),$(p))$(call emu_$(p),$(UNITS))),\
	  $(MAKE) --no-print-directory BACKEND=emu PRECISION=$(p) $(sort $(call emulated,$(UNITS),$(p)) $(call emu_$(p),$(UNITS))) &&)) :
	@mkdir -p build/test-logs
	@bash -o pipefail -c 'tests/run.sh --summary build/test-logs/summary-$(TIER) $(UNITS) | tee build/test-logs/$(TIER).log'

.PHONY: units
units: # lists the tests of TIER, one per line
	@printf '%s\n' $(UNITS)

test-programs: $(TEST_BIN)
