# BACKEND=ptx, a second check of the CUDA kernels: the PTX that nvcc generates from kernels/*.cu runs on the CPU, in the
# simulator tests/ptx/sim, whose runtime.cpp takes the place of libcudart. It is linked with the emulation's cuBLASLt and
# NCCL; everything else is as with BACKEND=cuda.

# ---- The simulator ---------------------------------------------------------------------------------------------------
# Without CUDA but for runtime.cpp. Its arithmetic must round as the text says: no contraction, and roundings that change.
SIM       := build/sim$(BUILD_SUFFIX)
SIM_OBJ   := $(patsubst tests/ptx/sim/%.cpp,$(SIM)/%.o,$(filter-out tests/ptx/sim/runtime.cpp tests/ptx/sim/test_%,$(wildcard tests/ptx/sim/*.cpp)))
SIM_FLAGS  = -std=c++17 $(SYMBOLS) $(OPT:-O3=-O2) -march=$(MARCH) -ffp-contract=off -frounding-math $(WARN) -MMD -MP
$(SIM)/runtime.o: private SIM_FLAGS += -isystem $(CUDA_HOME)/include
$(SIM)/%.o: tests/ptx/sim/%.cpp $(SIM)/flags
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) $(SIM_FLAGS) -c $< -o $@
$(SIM)/flags: COMPILED = $(CXX) $(SIM_FLAGS)
$(SIM)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(COMPILED)' | cmp -s - $@ || echo '$(COMPILED)' >$@
-include $(SIM_OBJ:.o=.d) $(SIM)/runtime.d $(SIM)/test_sim.d

# ---- The kernels on it -----------------------------------------------------------------------------------------------
PTX_STANDINS := $(patsubst tests/emu/%.h,$(BUILD)/include/%.h,tests/emu/cublasLt.h $(wildcard tests/emu/nccl.h))
PTX_LIB      := $(patsubst %.cpp,$(BUILD)/%.o,tests/emu/cublaslt.cpp $(wildcard tests/emu/nccl*.cpp) tests/ptx/shim.cpp)
PTX_FLAGS     = -std=c++17 -O3 -lineinfo --no-compress -arch=compute_80 -I$(BUILD)/include -Xcompiler -Wall,-Wno-unused-function

ifeq ($(BACKEND),ptx)
KERNEL_FLAGS   = $(NVCC) $(PTX_FLAGS)
KERNEL_CU_OBJ += $(PTX_LIB) $(SIM_OBJ) $(SIM)/runtime.o
LDLIBS += -lstdc++

$(BUILD)/%.cu.o: %.cu $(BUILD)/flags $(PTX_STANDINS) | ptx-tools
	@mkdir -p $(@D)
	@echo "NVCC $<"
	$(Q)$(NVCC) $(DEFINES) $(PTX_FLAGS) -MMD -MP -c $< -o $@

# The stand-in headers of the libraries, without that of the runtime: nvcc has its own.
$(BUILD)/include/%.h: tests/emu/%.h
	@mkdir -p $(@D)
	ln -sfn '$(abspath $<)' $@
endif

.SECONDARY: $(PTX_STANDINS)
.PHONY: ptx-tools
ptx-tools:
	@command -v $(firstword $(NVCC)) >/dev/null || { echo "make: BACKEND=ptx needs $(NVCC) (CUDA 12.4 or newer), which cannot be run" >&2; exit 1; }

# ---- Tests ----------------------------------------------------------------------------------------------------------
# The simulator's own: without nvcc on PTX written by hand, and with nvcc on small CUDA kernels and what is broken in them.
SIM_TEST := $(SIM)/test_sim
$(SIM_TEST): $(SIM)/test_sim.o $(SIM_OBJ)
	@echo "LD $@"
	$(Q)$(CXX) $(SIM_FLAGS) $^ -o $@ -lcmocka
ifeq ($(BACKEND),ptx)
$(BUILD)/tests/ptx/sim/test_kernels: $(BUILD)/tests/ptx/sim/test_kernels.cu.o $(SIM_OBJ) $(SIM)/runtime.o
	@echo "LD $@"
	$(Q)$(CXX) $(SIM_FLAGS) $^ -o $@ -lcmocka
endif

# Runs one layer under the simulator's profiler: profile LAYER NUMBERS [FUNCTION] (bench/README.md).
$(BUILD)/profile: $(BUILD)/tests/ptx/profile.o $(HOST)/bench/bench_kernels.o $(KERNEL_CU_OBJ) \
    $(call objects_of,util) $(call objects_of,kernels/runtime) $(call objects_of,kernels)
	$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)

# The kernels' tests. test_comm is not among them: without mpirun there is only one rank. The emulation runs it.
PTX_TESTS := $(patsubst %.c,$(BUILD)/%,tests/runtime/test_device.c $(wildcard tests/kernels/test_*.c tests/bench/test_*.c))
PTX_RACE  ?= 0 1
PTX_SEEDS ?= 1 2 3

.PHONY: test-ptx test-ptx-one kernel-profile
test-ptx: setup ## run the CUDA kernels' PTX in the simulator: fp32 and bf16, race check on and off, three random schedules
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=fp32 test-ptx-one
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=bf16 test-ptx-one

SIM_TESTS := $(SIM_TEST) $(BUILD)/tests/ptx/sim/test_kernels
test-ptx-one: $(SIM_TESTS) $(PTX_TESTS)
	@for test in $(SIM_TESTS); do \
	  $$test >$(BUILD)/sim.log 2>&1 || { cat $(BUILD)/sim.log; exit 1; }; \
	  sed -nE "s|^\[  PASSED  \] ([0-9]+) .*|ptx: $$test: \1 passed (the simulator itself)|p" $(BUILD)/sim.log; \
	done
	tests/ptx/run.sh $(BUILD) "$(PTX_RACE)" "$(PTX_SEEDS)" $(PTX_TESTS)

kernel-profile: setup ## count the work of the real PTX at SD2's shapes and compare it with the targets (ONLY=conv2d: one layer)
	@mkdir -p build
	@$(MAKE) --no-print-directory BACKEND=ptx PRECISION=bf16 build/ptx-bf16/profile >build/kernel-profile.log 2>&1 || \
	  { tail -n 20 build/kernel-profile.log; exit 1; }
	bench/kernel_report.py profile --only "$(ONLY)"
