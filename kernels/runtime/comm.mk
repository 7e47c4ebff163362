# Libraries of comm.c and comm.cu: Open MPI if it is installed, and NCCL (BACKEND=cuda) or its stand-in (BACKEND=emu,
# tests/emu/nccl.cpp). Without nccl.h the program is built for one GPU.

MPI ?= $(call one_of,ompi-c ompi mpi-c)
ifneq ($(MPI),)
MPI_CFLAGS := -DHAVE_MPI $(shell pkg-config --cflags $(MPI))
LDLIBS     += $(shell pkg-config --libs $(MPI))
endif
$(BUILD)/kernels/runtime/comm.o $(BUILD)/kernels/runtime/comm_host.o: private CPPFLAGS += $(MPI_CFLAGS)
$(BUILD)/tests/emu/nccl.o $(BUILD)/tests/emu/test_nccl.o: private EMU_FLAGS += $(MPI_CFLAGS)

ifeq ($(BACKEND),cuda)
NCCL      := $(call library,nccl.h,nccl)
HAVE_NCCL := $(call beside_nvcc,nccl.h)$(NCCL)
endif
NCCL_CFLAGS := $(if $(HAVE_NCCL)$(filter emu ptx,$(BACKEND)),-DHAVE_NCCL) $(if $(NCCL),-I$(NCCL)/include)
$(BUILD)/kernels/runtime/comm.cu.o: private DEFINES += $(NCCL_CFLAGS)

# Rebuild these when MPI or NCCL has been installed or removed.
$(BUILD)/kernels/runtime/comm.o $(BUILD)/kernels/runtime/comm.cu.o $(BUILD)/kernels/runtime/load.cu.o \
$(BUILD)/kernels/runtime/comm_host.o $(BUILD)/tests/emu/nccl.o: $(BUILD)/comm-flags
$(BUILD)/comm-flags: FORCE
	@mkdir -p $(@D)
	@echo '$(MPI_CFLAGS) $(NCCL_CFLAGS)' | cmp -s - $@ || echo '$(MPI_CFLAGS) $(NCCL_CFLAGS)' >$@

# The test of the stand-in (run by tests/cli/test_comm.sh).
$(BUILD)/tests/emu/test_nccl: $(BUILD)/tests/emu/test_nccl.o $(EMU_LIB)
	@echo "LD $@"
	$(Q)$(CXX) $(EMU_FLAGS) $^ -o $@ $(LDLIBS)
-include $(BUILD)/tests/emu/test_nccl.d
