# make bundle: one folder that runs on a machine with nothing but a processor of this family, glibc and, for
# BACKEND=cuda, a driver. make gpu-check: the same for this machine, and its check.sh.

MACHINE      := $(shell uname -m)
BUNDLE_DIR   ?= build/bundle/cocogold-$(BACKEND)-$(MACHINE)
# For every processor of the last ten years, without MPI, whose libraries need files at fixed places. BACKEND=emu, which
# is only for trying check.sh, needs MPI for its stand-in for NCCL.
BUNDLE_MARCH ?= $(if $(filter x86_64,$(MACHINE)),x86-64-v3,armv8-a)
BUNDLE_BUILD  = BUILD_SUFFIX=-bundle MARCH=$(BUNDLE_MARCH) $(if $(filter emu,$(BACKEND)),,MPI=) $(if $(filter cuda,$(BACKEND)),BUNDLE=1)
BUNDLE_TESTS := $(EMU_KERNELS) $(EMU_MODELS)
PRECISIONS   ?= fp32 $(if $(filter cuda emu,$(BACKEND)),bf16)

IN_SHARED := $(LINK_kernels) $(LAB_CU_OBJ)
$(BUILD)/libcocogold-$(PRECISION).so: $(IN_SHARED)
	@echo "LD $@"
	$(Q)$(CC) $(CFLAGS) -shared -Wl,-soname,$(@F) $^ -o $@ $(LDLIBS)

.PHONY: bundle bundle-programs bundle-finish gpu-check
bundle: setup ## one folder and its .tar.gz: program, tests and check.sh for a machine without packages (BACKEND=cuda|cpu)
	@$(foreach p,$(PRECISIONS),$(MAKE) $(IN_BUNDLE) PRECISION=$(p) $(BUNDLE_BUILD) bundle-programs &&) :
	@$(MAKE) $(IN_BUNDLE) bundle-finish

# For all architectures; gpu-check's is for this machine's GPU alone.
IN_BUNDLE = --no-print-directory BACKEND=$(BACKEND) $(if $(filter cuda,$(BACKEND)),CARDS='$(BUNDLE_CARDS)') BUNDLE_DIR='$(BUNDLE_DIR)'
gpu-check: BUNDLE_CARDS := $(CARDS)

bundle-finish:
	@bench/bundle.sh finish '$(BUNDLE_DIR)' $(BACKEND) "$(strip $(CUDA_ARCHS:%=sm_%))" \
	  $(if $(filter cuda,$(BACKEND)),$(CUDA_VERSION) $(LEAST_DRIVER))

bundle-programs: $(BUILD)/cocogold $(addprefix $(BUILD)/,$(BUNDLE_TESTS))
	@bench/bundle.sh programs '$(BUNDLE_DIR)' $(PRECISION) $^ $(SHARED)

# BACKEND is cpu here only because something is missing, unless it was set.
ifeq ($(BACKEND)$(filter command line environment,$(origin BACKEND)),cpu)
gpu-check:
	@echo "make gpu-check: $(or $(NO_CUDA),no NVIDIA GPU can be used here: nvidia-smi finds none)$(if $(CARDS),: \
	\`make bundle BACKEND=cuda\` on a machine with it makes a folder whose check.sh runs here)" >&2
	@echo "0 passed, 1 failed, 0 slower than PyTorch"
	@exit 1
else
gpu-check: bundle ## on a machine with a GPU: is everything right there, and how fast is it (10 minutes; bench/README.md)
	@GPU_CHECK_LIBRARIES="$(CUBLAS) $(NCCL) $(CUDA_HOME)/lib64" '$(BUNDLE_DIR)/check.sh' --out build/gpu-check
endif
