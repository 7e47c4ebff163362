#!/usr/bin/env bash
# What setup.sh and the Makefile do on other machines: without root, with libraries that dpkg does not know, without a
# network, with a half-made .venv, with older GPUs. Small scripts stand for dpkg, apt, sudo, Python, nvcc and nvidia-smi.
source "$(dirname "$0")/../cli/common.sh"
mkdir -p bin tree/tests/build toolkit/include
cp -r "$root/tests/reference" tree/tests && cp "$root/tests/build/find_clang.sh" tree/tests/build && cp "$root/setup.sh" tree
export PATH=$work/bin:$PATH SAID=$work/said USER_ID=1000 DPKG= LACKS=none PYTHON_IS_OLD=0
unset NVCC BACKEND PRECISION CUDA_ARCHS CUDA_HOME MPI

fake() { # fake NAME SCRIPT: a command that says how it was called
    printf '#!/bin/sh\necho "%s $*" >>"$SAID"\n%s\n' "$1" "$2" >"bin/$1" && chmod +x "bin/$1"
}
fake id 'echo $USER_ID'
fake sudo 'exit 1'
fake apt-get ''
fake dpkg-query 'for last; do :; done; [ "$last" = "$DPKG" ] && echo installed'
fake pkg-config 'for last; do :; done; case " $LACKS " in *" $last "*) exit 1 ;; esac'

# setup_ends CODE TEXT ARGUMENTS...: setup.sh ends with this code, and its output has the text or, if that is empty, nothing
setup_ends() {
    local text code
    : >"$SAID"
    text=$(tree/setup.sh "${@:3}" 2>&1)
    code=$?
    echo "exit $code: $text"
    [ $code = "$1" ] && if [ "$2" ]; then [[ $text == *"$2"* ]]; else [ -z "$text" ]; fi
}
called() { grep -q -- "$1" "$SAID"; } # called PATTERN: of what was called by the last setup_ends
not_called() { ! called "$1"; }

# ---- Packages --------------------------------------------------------------------------------------------------------

check "nothing is missing that pkg-config finds, though dpkg lacks it" setup_ends 0 ""
LACKS=hdf5-serial check "HDF5 under its other name" setup_ends 0 ""
export LACKS="cmocka"
check "the build needs no cmocka" setup_ends 0 "" --check
DPKG=libcmocka-dev check "what dpkg has is not missing" setup_ends 0 ""
check "without root the tests' packages are not needed" setup_ends 0 "continuing without libcmocka-dev, which only tests need"
LACKS=popt check "without root: the line for an administrator" setup_ends 1 \
    "this needs root or sudo: let an administrator run \`apt-get install --no-install-recommends libpopt-dev\`"
check "nothing was installed" not_called apt-get
USER_ID=0 check "as root" setup_ends 0 "installing libcmocka-dev"
check "it was installed" called 'apt-get install .* libcmocka-dev$'
mkdir no-apt && ln -s /usr/bin/* /bin/* no-apt 2>/dev/null
cp --remove-destination bin/* no-apt && rm no-apt/apt-get
USER_ID=0 PATH=$work/no-apt check "as root, but without apt" setup_ends 0 "continuing without libcmocka-dev, which only tests need"
LACKS=popt USER_ID=0 PATH=$work/no-apt check "without apt: what to install by hand" setup_ends 1 "install by hand what Debian calls libpopt-dev"
export LACKS="ompi-c ompi mpi-c"
check "without Open MPI" setup_ends 1 "missing: libopenmpi-dev. \`make setup\` installs them" --check
check "make MPI= needs none" make -s -C "$root" MPI= BACKEND=cpu tools
check_not "make does" make -s -C "$root" BACKEND=cpu tools
export LACKS=none

# ---- Python ----------------------------------------------------------------------------------------------------------

# A Python whose environments have a pip that only says how it was called, and that PIP=none breaks.
fake python3 'case "$*" in
*version_info*) exit $PYTHON_IS_OLD ;;
*python_version*) echo 3.10.12 ;;
*nvidia*) exit 1 ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/whole" && printf "#!/bin/sh\necho pip \$* >>$SAID\nexit \$PIP\n" >"$3/bin/pip" && chmod +x "$3/bin/pip" ;;
"-m pip --version") [ -e "$(dirname "$0")/../whole" ] ;;
esac'
fake chromium ''
export PIP=0
PYTHON_IS_OLD=1 check "Python 3.10" setup_ends 1 "needs Python 3.11 or newer, and python3 is 3.10.12" --reference
mkdir -p tree/.venv/bin && cp bin/python3 tree/.venv/bin/python
check "a half-made .venv is finished" setup_ends 0 "installing the packages" --reference
check "with its packages" called 'pip install .*requirements.txt'
PIP=1 check "a finished .venv stays" setup_ends 0 "" --reference

# ---- CUDA ------------------------------------------------------------------------------------------------------------

fake nvcc 'case "$*" in
*--list-gpu-code*) printf "sm_%s\n" 75 80 86 90 ;;
*--dryrun*) echo "#\$ TOP='"$work"'/toolkit" ;;
*--version*) echo "Cuda compilation tools, release ${RELEASE:-12.4}, V12.4.131" ;;
esac'
fake cuobjdump ''
fake nvdisasm ''
touch toolkit/include/cublasLt.h
if [ -e /usr/include/nccl.h ] || [ -e /usr/include/cublasLt.h ]; then
    echo "skipped: what is missing from the toolkit, which this machine has in /usr/include"
else
    PIP=1 check "without a network: no NCCL" setup_ends 0 "trains on one GPU" --cuda
    check "NCCL was asked for" called 'pip install .*nvidia-nccl-cu12'
    NVCC="nvcc -ccbin g++-13" check "nvcc with options" setup_ends 0 "installing nvidia-nccl-cu12" --cuda
    rm toolkit/include/cublasLt.h
    PIP=1 check "the build needs cuBLASLt" setup_ends 1 "installing nvidia-cublas-cu12==12.4.*" --cuda
    check "an older toolkit's cuBLASLt" setup_ends 0 "installing nvidia-cublas-cu12==12.4.*" --cuda
    RELEASE=12.6 check "a newer one replaces it" setup_ends 0 "installing nvidia-cublas-cu12==12.6.*" --cuda
    check "and back" setup_ends 0 "installing nvidia-cublas-cu12==12.4.*" --cuda
    check "what is there is not installed again" setup_ends 0 "" --cuda
    touch toolkit/include/cublasLt.h
fi

fake nvidia-smi 'case "$*" in
-L) echo "GPU 0: A card (UUID: GPU-0)" ;;
*compute_cap*) printf "%s\n" $CAPS ;;
esac'
printf 'include Makefile\n.PHONY: show\nshow:\n\t@echo $(BACKEND) $(CUDA_ARCHS)\n' >show.mk
# backend CAPS EXPECTED [VARIABLE=VALUE...]: of a machine with these cards
backend() {
    local got
    got=$(CAPS=$1 make -s -C "$root" -f "$work/show.mk" "${@:3}" show)
    echo "$got"
    [ "$got" = "$2" ]
}
tells() { # tells CAPS TEXT TARGET [VARIABLE=VALUE...]: make prints one sentence
    local text
    text=$(CAPS=$1 make -s -C "$root" "${@:3}" 2>&1 | grep -v '\*\*\*')
    echo "$text"
    [ "$(grep -cF "$2" <<<"$text")" = 1 ]
}
check "an A100" backend 8.0 "cuda 80"
check "a T4 builds for the CPU" backend 7.5 "cpu"
check "and make says why" tells 7.5 "make: this machine has a GPU (GPU 0: A card (UUID: GPU-0)) but none of Ampere (sm_80) or newer: building for the CPU" tools
check "gpu-check too" tells 7.5 "make gpu-check: this machine has a GPU (GPU 0: A card (UUID: GPU-0)) but none of Ampere" gpu-check
check "a V100 beside an RTX 3090" backend "7.0 8.6" "cuda 86"
check "a card newer than nvcc: all architectures" backend 12.1 "cuda 80 86 90"
check "nvcc with options" backend 8.6 "cuda 86" NVCC="nvcc -ccbin g++-13"
check "without nvcc" backend 8.6 "cpu" NVCC=no-nvcc
check "and make says why" tells 8.6 "but no no-nvcc (CUDA 12.4 or newer): building for the CPU" tools NVCC=no-nvcc
check "and gpu-check does, with what helps" tells 8.6 "makes a folder whose check.sh runs here" gpu-check NVCC=no-nvcc
check "bf16 on a CPU" tells "" "make: BACKEND=cpu has fp32 only: BACKEND=emu PRECISION=bf16" tools PRECISION=bf16 BACKEND=cpu

# ---- A folder with a space -------------------------------------------------------------------------------------------

mkdir "a folder" && (cd "$root" && cp -r Makefile setup.sh cocogold.c kernels util model data eval train bench tests "$work/a folder")
header=build/ptx-bf16/include/nccl.h
check "the stand-ins for PTX in a folder with a space" make -s -C "a folder" BACKEND=ptx PRECISION=bf16 $header
check "they can be read" [ -s "a folder/$header" ]
finish
