#!/usr/bin/env bash
# Installs what cocogold needs from the distribution (Debian, Ubuntu), and nothing that is there already.
# Elsewhere it says what to install by hand. `setup.sh --reference` also makes .venv with PyTorch for `make test-reference`;
# `setup.sh --cuda` puts cuBLASLt, NCCL, cuobjdump and nvdisasm into .cuda where there is nvcc without them.
set -euo pipefail
cd "$(dirname "$0")"

packages=(gcc g++ make pkg-config libopenblas-openmp-dev libhdf5-dev libstb-dev libyajl-dev libpopt-dev libcairo2-dev
          fonts-dejavu-core libssl-dev libpcre2-dev libutf8proc-dev libcmocka-dev libopenmpi-dev openmpi-bin
          libboost-context-dev)

missing=()
if command -v dpkg-query >/dev/null; then
    for p in "${packages[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        run=()
        [ "$(id -u)" = 0 ] || run=(sudo)
        echo "setup: installing ${missing[*]}"
        "${run[@]}" apt-get update -qq
        DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
elif ! pkg-config --exists openblas hdf5-serial yajl popt cairo openssl libpcre2-8 libutf8proc 2>/dev/null; then
    cat >&2 <<'TEXT'
setup: this is no Debian or Ubuntu. Install by hand, with headers and pkg-config files: gcc, make, OpenBLAS (OpenMP
flavour), HDF5 (serial, as hdf5-serial), stb, yajl 2, popt, cairo, OpenSSL, PCRE2, utf8proc, cmocka, OpenMPI,
Boost.Context.
TEXT
    exit 1
fi

if [ "${1:-}" = --reference ] && ! cmp -s tests/reference/requirements.txt .venv/requirements.txt 2>/dev/null; then
    command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null || {
        run=()
        [ "$(id -u)" = 0 ] || run=(sudo)
        "${run[@]}" apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
    }
    # The browser that opens the reports.
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || {
        run=()
        [ "$(id -u)" = 0 ] || run=(sudo)
        DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends chromium >/dev/null
    }
    echo "setup: installing the packages of tests/reference/requirements.txt into .venv"
    python3 -m venv .venv
    .venv/bin/pip install -q --only-binary=:all: -r tests/reference/requirements.txt
    .venv/bin/pip install -q --only-binary=:all: --no-deps -r tests/reference/requirements-vocabulary.txt
    cp tests/reference/requirements.txt .venv/requirements.txt
fi

if [ "${1:-}" = --cuda ]; then
    command -v nvcc >/dev/null || { echo "setup: nvcc (CUDA 12.4 or newer) is needed to build for GPUs" >&2 && exit 1; }
    # The toolkit's folder as nvcc itself knows it: the command may be a wrapper.
    home=$(realpath "$(nvcc --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')")
    release=$(nvcc --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
    wanted=()
    [ -e "$home/include/cublasLt.h" ] || wanted+=('nvidia-cublas<13.1')
    [ -e "$home/include/nccl.h" ] || [ -e /usr/include/nccl.h ] || wanted+=(nvidia-nccl-cu13)
    command -v cuobjdump >/dev/null || wanted+=(nvidia-cuda-cuobjdump)
    command -v nvdisasm >/dev/null || wanted+=(nvidia-cuda-nvdisasm)
    if [ ${#wanted[@]} -gt 0 ] && [ "$(cat .cuda/packages 2>/dev/null)" != "${wanted[*]}" ]; then
        [ "$release" = 13 ] ||
            { echo "setup: install by hand, for CUDA $release, what PyPI calls ${wanted[*]}" >&2 && exit 1; }
        echo "setup: installing ${wanted[*]} into .cuda"
        python3 -m venv .cuda
        .cuda/bin/pip install -q --only-binary=:all: "${wanted[@]}"
        echo "${wanted[*]}" >.cuda/packages
    fi
fi
