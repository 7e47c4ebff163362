# The kernels in CUDA: kernels/*.cu replace kernels/*.c in BACKEND=cuda (nvcc), emu (g++ with the stand-in headers of
# tests/emu) and ptx (tests/ptx/ptx.mk). So do device.cu and comm.cu in kernels/runtime/.

CODE := $(BACKEND:ptx=cuda)
ifneq ($(BACKEND),cpu)
OTHER_BACKEND := $(wildcard kernels/*.c) kernels/runtime/device.c kernels/runtime/comm.c
KERNEL_CU_OBJ := $(patsubst %.cu,$(BUILD)/%.cu.o,$(filter-out $(if $(filter cuda,$(BACKEND)),,%/load.cu), \
                   $(wildcard kernels/*.cu kernels/runtime/*.cu)))
# The kernel lab's versions (bench/README.md), linked into the program and into tests/bench/test_lab.
LAB_CU_OBJ    := $(patsubst %.cu,$(BUILD)/%.cu.o,$(wildcard bench/lab/*.cu))
endif
DEFINES = -I. -DBACKEND_$(CODE) -DPRECISION_$(PRECISION)

# ---- nvcc ------------------------------------------------------------------------------------------------------------
ifneq ($(filter cuda ptx,$(BACKEND)),)
# Ask nvcc for the toolkit's folder, since the command may be a wrapper.
ifndef CUDA_HOME
CUDA_HOME := $(realpath $(shell $(NVCC) --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^\#$$ TOP=//p'))
endif
# Libraries missing from the toolkit come from `setup.sh --cuda`, else from the Python environment's nvidia wheels.
WHEELS    := $(firstword $(wildcard .cuda/lib/python3*/site-packages/nvidia) \
               $(shell python3 -c 'import nvidia; print(*nvidia.__path__)' 2>/dev/null))
# library HEADER FOLDERS: the first folder that has the header; empty if nvcc finds it by itself.
beside_nvcc = $(wildcard $(CUDA_HOME)/include/$(1) $(CUDA_HOME)/targets/*/include/$(1) /usr/include/$(1))
in_wheels   = $(patsubst %/include/$(1),%,$(firstword $(wildcard $(2:%=$(WHEELS)/%/include/$(1)))))
library     = $(if $(call beside_nvcc,$(1)),,$(if $(WHEELS),$(call in_wheels,$(1),$(2))))
CUBLAS     := $(call library,cublasLt.h,cu13 cublas)
HAVE_CUBLAS := $(call beside_nvcc,cublasLt.h)$(CUBLAS)

# Architectures: those of the machine's GPUs, else all of this list that nvcc supports.
NVCC_KNOWS := $(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code 2>/dev/null))
SUPPORTED  := $(filter $(NVCC_KNOWS),80 86 89 90 100 120)
ifndef CUDA_ARCHS
CUDA_ARCHS := $(or $(filter $(CARDS),$(NVCC_KNOWS)),$(SUPPORTED))
endif
# PTX is generated once, for the oldest architecture, and assembled for each card. So all cards run the PTX that
# tests/ptx tests, and the driver can assemble it for cards newer than this nvcc.
OLDEST     := compute_$(firstword $(SUPPORTED))
space      := $(subst ,, )
GENCODE     = -gencode "arch=$(OLDEST),code=[$(subst $(space),$(comma),$(strip $(CUDA_ARCHS:%=sm_%) $(OLDEST)))]"
# A bundle has small machine code: without source lines, and packed as nvcc 12.8 and newer can.
PACKED      = $(shell $(NVCC) --help | grep -q -e '--compress-mode' && echo --compress-mode=size)
SMALL      := $(if $(BUNDLE),$(PACKED) -Xcompiler -fPIC)
# The oldest driver that runs a bundle: of its CUDA's first version, or the first that unpacks such machine code.
CUDA_VERSION = $(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
LEAST_DRIVER = $(if $(filter 12.%,$(CUDA_VERSION)),$(if $(PACKED),550.54,525.60),580.65)
NVCC_FLAGS  = -std=c++17 -O3 $(if $(BUNDLE),$(SMALL),-lineinfo) $(if $(WERROR),-Werror all-warnings) \
              -Xcompiler -Wall,-Wno-unused-function \
              $(if $(CUBLAS),-I$(CUBLAS)/include)
endif

ifeq ($(BACKEND),cuda)
KERNEL_FLAGS = $(NVCC) $(NVCC_FLAGS) $(GENCODE)
$(BUILD)/kernels/runtime/device.cu.o: private DEFINES += -DBUILT_FOR='"$(strip $(CUDA_ARCHS:%=sm_%))"'
LDLIBS += -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lstdc++
# Where cuBLASLt and NCCL are if the dynamic linker does not find them. A bundle's machine has its own.
folder_of = '"$(if $(BUNDLE),,$(if $(1),$(abspath $(1)/lib),$(CUDA_HOME)/lib64))/"'
$(BUILD)/kernels/runtime/load.cu.o: private DEFINES += $(NCCL_CFLAGS) -DCUBLAS_FOLDER=$(call folder_of,$(CUBLAS)) \
  -DNCCL_FOLDER=$(call folder_of,$(NCCL))

$(BUILD)/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "NVCC $<"
	$(Q)$(NVCC) $(DEFINES) $(NVCC_FLAGS) $(GENCODE) -MMD -MP -c $< -o $@

# Print one sentence instead of compiler errors.
$(BUILD)/flags: | cuda-tools
.PHONY: cuda-tools
cuda-tools:
ifeq ($(NVCC_KNOWS),)
	@echo "make: BACKEND=cuda needs $(NVCC) (CUDA 12.4 or newer), which cannot be run" >&2; exit 1
else ifeq ($(HAVE_CUBLAS),)
	@echo "make: $(NVCC) does not find cublasLt.h: \`./setup.sh --cuda\` installs cuBLASLt into .cuda" >&2; exit 1
else
	@$(if $(HAVE_NCCL),:,echo "make: nccl.h is missing, so this build trains on one GPU only: \`./setup.sh --cuda\` installs NCCL into .cuda")
endif
endif

# ---- Emulation -------------------------------------------------------------------------------------------------------
# An access whose address is not a multiple of its type's alignment, which a GPU does not allow, is a trap.
ALIGNED   = -fsanitize=alignment -fsanitize-undefined-trap-on-error
EMU_FLAGS = -std=c++17 $(CODE_FLAGS) $(ALIGNED) -Wno-unknown-pragmas -Wno-pass-failed -Itests/emu -MMD -MP
EMU_LIB  := $(patsubst %.cpp,$(BUILD)/%.o,$(filter-out tests/emu/test_%,$(wildcard tests/emu/*.cpp)))
ifeq ($(BACKEND),emu)
ifeq ($(DEBUG),1)
$(error DEBUG=1 needs BACKEND=cpu: AddressSanitizer does not support the fibers of the emulation, which guards its memory itself)
endif
KERNEL_CU_OBJ += $(EMU_LIB)
KERNEL_FLAGS   = $(CXX) $(EMU_FLAGS)
LDLIBS        += -lboost_context -lstdc++

# -O3 and full symbols would double the compile time of these files without making the tests faster.
$(BUILD)/%.cu.o: private OPT := $(OPT:-O3=-O2)
$(BUILD)/%.cu.o: private SYMBOLS := -g1
$(BUILD)/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "EMU $<"
	$(Q)$(CXX) -x c++ $(DEFINES) $(EMU_FLAGS) -c $< -o $@
endif

# The stand-ins, also for BACKEND=ptx.
$(BUILD)/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) -I. -DBACKEND_emu -DPRECISION_$(PRECISION) $(LIBRARY_CFLAGS) $(EMU_FLAGS) -c $< -o $@

$(BUILD)/tests/emu/test_emu: $(BUILD)/tests/emu/test_emu.o $(EMU_LIB)
	@echo "LD $@"
	$(Q)$(CXX) $(EMU_FLAGS) $^ -o $@ $(LDLIBS) -lcmocka

# ---- Machine code ----------------------------------------------------------------------------------------------------
.PHONY: nvcc-check nvcc-objects machine-code-check kernel-report
# For all architectures, or those in CUDA_ARCHS, whatever GPU this machine has.
EVERY_CARD = --no-print-directory BACKEND=cuda CARDS=
nvcc-check: ## build every .cu for all architectures; check registers, spills and tensor-core instructions
	@./setup.sh --cuda --disassemblers
	@$(MAKE) $(EVERY_CARD) PRECISION=bf16 nvcc-objects
	@$(MAKE) $(EVERY_CARD) PRECISION=fp32 nvcc-objects
	@$(MAKE) $(EVERY_CARD) machine-code-check

nvcc-objects: $(KERNEL_CU_OBJ) $(LAB_CU_OBJ)
machine-code-check:
	bench/kernel_report.py check --archs "$(CUDA_ARCHS:%=sm_%)" build/cuda-bf16 build/cuda-fp32

kernel-report: ## write docs/KERNELS.md: machine code, PTX counts and roofline of a step, without a GPU
	@./setup.sh --cuda --disassemblers
	@$(MAKE) $(EVERY_CARD) PRECISION=bf16 build/cuda-bf16/cocogold
	@$(MAKE) $(EVERY_CARD) PRECISION=fp32 nvcc-objects
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=bf16 build/ptx-bf16/profile
	build/cuda-bf16/cocogold bench plan --preset sd2 --batch 2 --size 64 --json build/sd2-plan.json
	bench/kernel_report.py report build/cuda-bf16 build/cuda-fp32

-include $(KERNEL_CU_OBJ:.o=.d) $(LAB_CU_OBJ:.o=.d) $(BUILD)/tests/emu/test_emu.d
