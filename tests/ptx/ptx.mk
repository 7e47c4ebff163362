# BACKEND=ptx, a second check of the CUDA kernels: the PTX that nvcc generates from kernels/*.cu runs on the CPU, in the
# simulator ../shared/ptxsim (not part of the project). It is linked with the emulation's cuBLASLt and NCCL; everything
# else is as with BACKEND=cuda.

PTXSIM       ?= $(wildcard ../shared/ptxsim)
PTXSIM_BUILD := build/ptxsim/build
PTX_STANDINS := $(patsubst tests/emu/%.h,$(BUILD)/include/%.h,tests/emu/cublasLt.h $(wildcard tests/emu/nccl.h))
PTX_LIB      := $(patsubst %.cpp,$(BUILD)/%.o,tests/emu/cublaslt.cpp $(wildcard tests/emu/nccl*.cpp) tests/ptx/shim.cpp)
PTX_FLAGS     = -std=c++17 -O3 -lineinfo --no-compress -arch=compute_80 -I$(BUILD)/include -Xcompiler -Wall,-Wno-unused-function

ifeq ($(BACKEND),ptx)
KERNEL_FLAGS   = $(NVCC) $(PTX_FLAGS)
KERNEL_CU_OBJ += $(PTX_LIB)
LDLIBS += -L$(PTXSIM_BUILD) -Wl,-rpath,$(abspath $(PTXSIM_BUILD)) -lcudart_ptxsim -lstdc++ $(OPENBLAS_LIBS)

$(BUILD)/%.cu.o: %.cu $(BUILD)/flags $(PTX_STANDINS) | build/ptxsim/ready
	@mkdir -p $(@D)
	@echo "NVCC $<"
	$(Q)$(NVCC) $(DEFINES) $(PTX_FLAGS) -MMD -MP -c $< -o $@

# The stand-in headers of the libraries, without that of the runtime: nvcc has its own.
$(BUILD)/include/%.h: tests/emu/%.h
	@mkdir -p $(@D)
	ln -sfn $(abspath $<) $@
endif

.SECONDARY: $(PTX_STANDINS)

# Build a copy, since the simulator is built in its own folder.
build/ptxsim/ready:
	@[ -n "$(PTXSIM)" ] || { echo "make: ../shared/ptxsim does not exist: set PTXSIM to the simulator's folder" >&2; exit 1; }
	@mkdir -p build
	@rm -rf build/ptxsim
	cp -r --no-preserve=mode,timestamps $(PTXSIM) build/ptxsim
	$(MAKE) -C build/ptxsim CUDA=$(CUDA_HOME) all
	@touch $@

# Runs one layer under the simulator's profiler: profile LAYER NUMBERS [FUNCTION] (bench/README.md).
$(BUILD)/profile: $(BUILD)/tests/ptx/profile.o $(HOST)/bench/bench_kernels.o $(KERNEL_CU_OBJ) \
    $(call objects_of,util) $(call objects_of,kernels/runtime) $(call objects_of,kernels)
	$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)

# The kernels' tests. test_comm is not among them: without mpirun there is only one rank. The emulation runs it.
PTX_TESTS := $(patsubst %.c,$(BUILD)/%,tests/runtime/test_device.c $(wildcard tests/kernels/test_*.c tests/bench/test_*.c))
PTX_RACE  ?= 0 1
PTX_SEEDS ?= 1 2 3

.PHONY: test-ptx test-ptx-one kernel-profile
test-ptx: setup ## run the CUDA kernels' PTX in ../shared/ptxsim: fp32 and bf16, race check on and off, three random schedules
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=fp32 test-ptx-one
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=bf16 test-ptx-one

test-ptx-one: $(PTX_TESTS)
	tests/ptx/run.sh $(BUILD) "$(PTX_RACE)" "$(PTX_SEEDS)" $^

kernel-profile: setup ## count the work of the real PTX at SD2's shapes and compare it with the targets (ONLY=conv2d: one layer)
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=bf16 build/ptx-bf16/profile >build/kernel-profile.log 2>&1 || \
	  { tail -n 20 build/kernel-profile.log; exit 1; }
	bench/kernel_report.py profile --only "$(ONLY)"
