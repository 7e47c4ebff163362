# What comm.c and comm.cu are built with: Open MPI where there is one, and NCCL (BACKEND=cuda) or its stand-in
# (BACKEND=emu, tests/emu/nccl.cpp). comm_host.c belongs to every backend.

OTHER_BACKEND := $(filter-out kernels/comm_host.c,$(OTHER_BACKEND))

MPI ?= $(firstword $(foreach p,ompi-c ompi mpi-c,$(if $(shell pkg-config --exists $(p) && echo yes),$(p))))
ifneq ($(MPI),)
MPI_CFLAGS := -DHAVE_MPI $(shell pkg-config --cflags $(MPI))
LDLIBS     += $(shell pkg-config --libs $(MPI))
endif
$(BUILD)/kernels/comm.o $(BUILD)/kernels/comm_host.o: private CPPFLAGS += $(MPI_CFLAGS)
$(BUILD)/tests/emu/nccl.o $(BUILD)/tests/emu/test_nccl.o: private EMU_FLAGS += $(MPI_CFLAGS)
$(BUILD)/kernels/comm.o $(BUILD)/kernels/comm_host.o $(BUILD)/tests/emu/nccl.o: $(BUILD)/mpi-flags

# They are rebuilt when MPI comes or goes.
$(BUILD)/mpi-flags: FORCE
	@mkdir -p $(@D)
	@echo '$(MPI_CFLAGS)' | cmp -s - $@ || echo '$(MPI_CFLAGS)' > $@

# NCCL: the toolkit's, else that of `setup.sh --cuda`.
NCCL_LIBS  := $(lastword $(wildcard .cuda/lib/python3*/site-packages/nvidia/nccl))
NCCL       := $(if $(wildcard $(CUDA_HOME)/include/nccl.h /usr/include/nccl.h),,$(NCCL_LIBS))
NVCC_FLAGS += $(if $(NCCL),-I$(NCCL)/include)
ifeq ($(BACKEND),cuda)
LDLIBS     += $(if $(NCCL),-L$(NCCL)/lib -Wl$(comma)-rpath$(comma)$(abspath $(NCCL)/lib) -l:libnccl.so.2,-lnccl)
endif

# The stand-in on its own (tests/cli/test_comm.sh).
$(BUILD)/tests/emu/test_nccl: $(BUILD)/tests/emu/test_nccl.o $(EMU_LIB)
	@echo "LD $@"
	$(Q)$(CXX) $(EMU_FLAGS) $^ -o $@ $(LDLIBS)
-include $(BUILD)/tests/emu/test_nccl.d
