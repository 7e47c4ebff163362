# The kernels in CUDA: kernels/*.cu take the place of kernels/*.c in BACKEND=cuda (nvcc), emu (g++ against the stand-in
# headers of tests/emu) and ptx (tests/ptx/ptx.mk). So do device.cu and comm.cu in kernels/runtime/.

CODE := $(BACKEND:ptx=cuda)
ifneq ($(BACKEND),cpu)
OTHER_BACKEND := $(wildcard kernels/*.c) kernels/runtime/device.c kernels/runtime/comm.c
KERNEL_CU_OBJ := $(patsubst %.cu,$(BUILD)/%.cu.o,$(wildcard kernels/*.cu kernels/runtime/*.cu))
# The kernel lab's steps (bench/README.md): part of the program and of their own test.
LAB_CU_OBJ    := $(patsubst %.cu,$(BUILD)/%.cu.o,$(wildcard bench/lab/*.cu))
endif
DEFINES = -I. -DBACKEND_$(CODE) -DPRECISION_$(PRECISION)

# ---- nvcc ------------------------------------------------------------------------------------------------------------
ifneq ($(filter cuda ptx,$(BACKEND)),)
# The toolkit's folder as nvcc itself knows it: the command may be a wrapper.
ifndef CUDA_HOME
CUDA_HOME := $(realpath $(shell $(NVCC) --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^\#$$ TOP=//p'))
endif
# Libraries that are not beside nvcc: those of `setup.sh --cuda`, else of the Python environment's nvidia wheels.
WHEELS    := $(firstword $(wildcard .cuda/lib/python3*/site-packages/nvidia) \
               $(shell python3 -c 'import nvidia; print(*nvidia.__path__)' 2>/dev/null))
# library HEADER NAME FOLDERS: nothing where nvcc finds the header by itself, else the first folder that has it.
beside_nvcc = $(wildcard $(CUDA_HOME)/include/$(1) $(CUDA_HOME)/targets/*/include/$(1) /usr/include/$(1))
in_wheels   = $(patsubst %/include/$(1),%,$(firstword $(wildcard $(2:%=$(WHEELS)/%/include/$(1)))))
library     = $(if $(call beside_nvcc,$(1)),,$(if $(WHEELS),$(call in_wheels,$(1),$(2))))
# link FOLDER NAME: -lNAME, or the file with a version that a wheel holds.
link        = $(if $(1),-L$(1)/lib -Wl$(comma)-rpath$(comma)$(abspath $(1)/lib) \
                -l:$(notdir $(firstword $(wildcard $(1)/lib/lib$(2).so*))),-l$(2))
CUBLAS     := $(call library,cublasLt.h,cu13 cublas)
HAVE_CUBLAS := $(call beside_nvcc,cublasLt.h)$(CUBLAS)

# Architectures: those of this list that nvcc knows; where there is a GPU, its own.
NVCC_KNOWS := $(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code 2>/dev/null))
SUPPORTED  := $(filter $(NVCC_KNOWS),80 86 89 90 100 120)
ifndef CUDA_ARCHS
CARDS      := $(if $(GPU),$(subst .,,$(shell nvidia-smi --query-gpu=compute_cap --format=csv$(comma)noheader 2>/dev/null)))
CUDA_ARCHS := $(or $(filter $(CARDS),$(NVCC_KNOWS)),$(SUPPORTED))
endif
# PTX is made once, for the oldest architecture, and assembled for each: the PTX that tests/ptx runs is what all cards
# get, and the driver assembles it for cards that are newer than this nvcc.
OLDEST     := compute_$(firstword $(SUPPORTED))
space      := $(subst ,, )
GENCODE     = -gencode "arch=$(OLDEST),code=[$(subst $(space),$(comma),$(strip $(CUDA_ARCHS:%=sm_%) $(OLDEST)))]"
NVCC_FLAGS  = -std=c++17 -O3 -lineinfo $(if $(WERROR),-Werror all-warnings) -Xcompiler -Wall,-Wno-unused-function \
              $(if $(CUBLAS),-I$(CUBLAS)/include)
endif

ifeq ($(BACKEND),cuda)
KERNEL_FLAGS = $(NVCC) $(NVCC_FLAGS) $(GENCODE)
$(BUILD)/kernels/runtime/device.cu.o: private DEFINES += -DBUILT_FOR='"$(strip $(CUDA_ARCHS:%=sm_%))"'
LDLIBS += $(call link,$(CUBLAS),cublasLt) -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lstdc++

$(BUILD)/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "NVCC $<"
	$(Q)$(NVCC) $(DEFINES) $(NVCC_FLAGS) $(GENCODE) -MMD -MP -c $< -o $@

# One sentence instead of a compiler's.
$(BUILD)/flags: | cuda-tools
.PHONY: cuda-tools
cuda-tools:
ifeq ($(NVCC_KNOWS),)
	@echo "make: BACKEND=cuda needs $(NVCC), which does not run here (CUDA 12.4 or newer)" >&2; exit 1
else ifeq ($(HAVE_CUBLAS),)
	@echo "make: cuBLASLt is not beside $(NVCC): \`./setup.sh --cuda\` installs it into .cuda" >&2; exit 1
else
	@$(if $(HAVE_NCCL),:,echo "make: nccl.h is not here, so this build trains on one GPU: \`./setup.sh --cuda\` installs it into .cuda")
endif
endif

# ---- Emulation -------------------------------------------------------------------------------------------------------
# The stand-in for cuBLASLt multiplies with OpenBLAS, in its OpenMP flavour, whichever one the distribution's alternatives
# point at: one pool of threads.
OPENBLAS        := $(firstword $(wildcard /usr/lib/*-linux-gnu/openblas-openmp/pkgconfig))
openblas         = $(shell $(if $(OPENBLAS),PKG_CONFIG_PATH=$(OPENBLAS)) pkg-config $(1) openblas 2>/dev/null)
$(BUILD)/tests/emu/cublaslt.o: private LIBRARY_CFLAGS += $(call openblas,--cflags)
OPENBLAS_LIBS    = $(call openblas,--libs) $(if $(OPENBLAS),-Wl$(comma)-rpath$(comma)$(OPENBLAS:/pkgconfig=))

EMU_FLAGS = -std=c++17 $(CODE_FLAGS) -Wno-unknown-pragmas -Wno-pass-failed -Itests/emu -MMD -MP
EMU_LIB  := $(patsubst %.cpp,$(BUILD)/%.o,$(filter-out tests/emu/test_%,$(wildcard tests/emu/*.cpp)))
ifeq ($(BACKEND),emu)
ifeq ($(DEBUG),1)
$(error DEBUG=1 is for BACKEND=cpu: AddressSanitizer does not follow the emulation's fibers, which guards its memory itself)
endif
KERNEL_CU_OBJ += $(EMU_LIB)
KERNEL_FLAGS   = $(CXX) $(EMU_FLAGS)
LDLIBS        += -lboost_context -lstdc++ $(OPENBLAS_LIBS)

# -O3 and full symbols double the time that g++ takes for these, and gain the tests nothing.
$(BUILD)/%.cu.o: private OPT := $(OPT:-O3=-O2)
$(BUILD)/%.cu.o: private SYMBOLS := -g1
$(BUILD)/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "EMU $<"
	$(Q)$(CXX) -x c++ $(DEFINES) $(EMU_FLAGS) -c $< -o $@
endif

# Stand-ins, also of BACKEND=ptx.
$(BUILD)/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) -I. -DBACKEND_emu -DPRECISION_$(PRECISION) $(LIBRARY_CFLAGS) $(EMU_FLAGS) -c $< -o $@

$(BUILD)/tests/emu/test_emu: $(BUILD)/tests/emu/test_emu.o $(EMU_LIB)
	@echo "LD $@"
	$(Q)$(CXX) $(EMU_FLAGS) $^ -o $@ $(LDLIBS) -lcmocka

# ---- Machine code ----------------------------------------------------------------------------------------------------
.PHONY: nvcc-check nvcc-objects machine-code-check kernel-report
nvcc-check: ## build every .cu for all architectures (WERROR=1: warnings are errors); registers, no spills, tensor-core instructions
	@./setup.sh --cuda --disassemblers
	@$(MAKE) --no-print-directory BACKEND=cuda PRECISION=bf16 nvcc-objects
	@$(MAKE) --no-print-directory BACKEND=cuda PRECISION=fp32 nvcc-objects
	@$(MAKE) --no-print-directory BACKEND=cuda machine-code-check

nvcc-objects: $(KERNEL_CU_OBJ) $(LAB_CU_OBJ)
machine-code-check:
	bench/kernel_report.py check --archs "$(CUDA_ARCHS:%=sm_%)" build/cuda-bf16 build/cuda-fp32

kernel-report: ## write docs/KERNELS.md: machine code, counts of the PTX, roofline of a step, without a GPU
	@./setup.sh --cuda --disassemblers
	@$(MAKE) --no-print-directory BACKEND=cuda PRECISION=bf16 build/cuda-bf16/cocogold
	@$(MAKE) --no-print-directory BACKEND=cuda PRECISION=fp32 nvcc-objects
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=bf16 build/ptx-bf16/profile
	build/cuda-bf16/cocogold bench plan --preset sd2 --batch 2 --size 64 --json build/sd2-plan.json
	bench/kernel_report.py report build/cuda-bf16 build/cuda-fp32

-include $(KERNEL_CU_OBJ:.o=.d) $(LAB_CU_OBJ:.o=.d) $(BUILD)/tests/emu/test_emu.d
