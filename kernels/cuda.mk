# The kernels in CUDA: kernels/*.cu take the place of kernels/*.c in BACKEND=cuda (nvcc) and BACKEND=emu (g++ against the
# stand-in headers of tests/emu). trace.c belongs to every backend.

CUDA_ARCHS ?= 80 89 90 120
NVCC       ?= nvcc
# cuBLASLt: the toolkit's, else that of `setup.sh --cuda`.
NVCC_LIBS  := $(lastword $(wildcard .cuda/lib/python3*/site-packages/nvidia/cu13))
# The toolkit's folder as nvcc itself knows it: the command may be a wrapper.
ifndef CUDA_HOME
CUDA_HOME  := $(realpath $(shell $(NVCC) --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^\#$$ TOP=//p'))
endif
CUBLAS     := $(if $(wildcard $(CUDA_HOME)/include/cublasLt.h),,$(NVCC_LIBS))
DEFINES     = -I. -DBACKEND_$(CODE) -DPRECISION_$(PRECISION)
NVCC_FLAGS  = -std=c++17 -O3 -lineinfo -Werror all-warnings -Xcompiler -Wall,-Wno-unused-function \
              $(if $(CUBLAS),-I$(CUBLAS)/include)
# PTX is made once, for the oldest card, and assembled for each: the PTX that tests/ptx runs is what all cards get.
space       := $(subst ,, )
OLDEST      := compute_$(firstword $(CUDA_ARCHS))
GENCODE      = -gencode "arch=$(OLDEST),code=[$(subst $(space),$(comma),$(CUDA_ARCHS:%=sm_%) $(OLDEST))]"
KERNEL_FLAGS = $(if $(filter cuda,$(BACKEND)),$(NVCC) $(NVCC_FLAGS) $(GENCODE))
EMU_FLAGS   = -std=c++17 -g $(OPT) -march=$(MARCH) -fno-math-errno -fno-trapping-math -ffp-contract=fast -fopenmp $(WARN) \
              -Wno-unknown-pragmas -Wno-pass-failed -Itests/emu -MMD -MP

KERNEL_CU := $(wildcard kernels/*.cu)
EMU_LIB   := $(patsubst %.cpp,$(BUILD)/%.o,$(filter-out tests/emu/test_%,$(wildcard tests/emu/*.cpp)))
ifneq ($(BACKEND),cpu)
OTHER_BACKEND := $(filter-out kernels/trace.c,$(wildcard kernels/*.c))
KERNEL_CU_OBJ := $(KERNEL_CU:%.cu=$(BUILD)/%.cu.o)
# The kernel lab's steps (bench/README.md): part of the program and of their own test.
LAB_CU_OBJ    := $(patsubst %.cu,$(BUILD)/%.cu.o,$(wildcard bench/lab/*.cu))
endif
ifeq ($(BACKEND),emu)
KERNEL_CU_OBJ += $(EMU_LIB)
LDLIBS += -lboost_context -lstdc++
endif
ifeq ($(BACKEND),cuda)
ifeq ($(wildcard $(CUDA_HOME)/include/cublasLt.h $(CUBLAS)/include/cublasLt.h /usr/include/cublasLt.h),)
$(warning cuBLASLt is not beside nvcc: run ./setup.sh --cuda)
endif
LDLIBS += $(if $(CUBLAS),-L$(CUBLAS)/lib -Wl$(,)-rpath$(,)$(abspath $(CUBLAS)/lib) -l:libcublasLt.so.13,-lcublasLt) \
          -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lstdc++
endif

ifeq ($(BACKEND),emu)
$(BUILD)/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "EMU $<"
	$(Q)$(CXX) -x c++ $(DEFINES) $(EMU_FLAGS) -c $< -o $@
endif
ifeq ($(BACKEND),cuda)
$(BUILD)/%.cu.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "NVCC $<"
	$(Q)$(NVCC) $(DEFINES) $(NVCC_FLAGS) $(GENCODE) -MMD -MP -c $< -o $@
endif

# Stand-ins, also of BACKEND=ptx.
$(BUILD)/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) -I. -DBACKEND_emu -DPRECISION_$(PRECISION) $(EMU_FLAGS) $(shell pkg-config --cflags openblas) -c $< -o $@

# Tests under emulation, in both precisions: the emulation's own, with planted faults, the kernels', whole models and a
# training step. Ranks and NCCL: tests/cli/test_comm.sh; the whole program: tests/emu/test_program.sh.
EMU_TESTS  := $(patsubst %.c,$(BUILD)/%,$(filter-out %/test_comm.c,$(wildcard tests/kernels/test_*.c tests/bench/test_*.c)))
EMU_MODELS := $(addprefix $(BUILD)/tests/,model/test_fixtures model/test_unet model/test_vae model/test_clip \
                model/test_params train/test_diffusion)
$(BUILD)/tests/emu/test_emu: $(BUILD)/tests/emu/test_emu.o $(EMU_LIB)
	@echo "LD $@"
	$(Q)$(CXX) $(EMU_FLAGS) $^ -o $@ $(LDLIBS) -lcmocka

.PHONY: test-emu test-emu-one test-emu-programs nvcc-check nvcc-objects kernel-report
test-emu: ## run the CUDA kernels on emulated threads, fp32 and bf16 (tests/emu)
	$(MAKE) BACKEND=emu PRECISION=fp32 test-emu-one
	$(MAKE) BACKEND=emu PRECISION=bf16 test-emu-one

test-emu-programs: $(BUILD)/tests/emu/test_emu $(EMU_TESTS) $(EMU_MODELS)

test-emu-one: test-emu-programs
	tests/emu/run.sh $(BUILD) $(BUILD)/tests/emu/test_emu $(EMU_TESTS) -- $(EMU_MODELS)

nvcc-check: ## build every .cu for all architectures, warnings as errors; registers, no spills, tensor-core instructions
	@./setup.sh --cuda
	$(MAKE) BACKEND=cuda PRECISION=bf16 nvcc-objects
	$(MAKE) BACKEND=cuda PRECISION=fp32 nvcc-objects
	bench/kernel_report.py check --archs "$(CUDA_ARCHS:%=sm_%)" build/cuda-bf16 build/cuda-fp32

nvcc-objects: $(KERNEL_CU_OBJ) $(LAB_CU_OBJ)

kernel-report: ## write docs/KERNELS.md: machine code, counts of the PTX, roofline of a step, without a GPU
	@./setup.sh --cuda
	$(MAKE) BACKEND=cuda PRECISION=bf16 build/cuda-bf16/cocogold
	$(MAKE) BACKEND=cuda PRECISION=fp32 nvcc-objects
	$(MAKE) BACKEND=ptx PRECISION=bf16 build/ptx-bf16/profile
	build/cuda-bf16/cocogold bench plan --preset sd2 --batch 2 --size 64 --json build/sd2-plan.json
	bench/kernel_report.py report build/cuda-bf16 build/cuda-fp32

-include $(KERNEL_CU_OBJ:.o=.d) $(LAB_CU_OBJ:.o=.d) $(BUILD)/tests/emu/test_emu.d
