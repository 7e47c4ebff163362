#!/usr/bin/env bash
# Installs the packages that cocogold needs from the distribution (Debian, Ubuntu), except those already installed.
#     setup.sh              compilers and libraries: `make demo`, `make test`
#     setup.sh --check      installs nothing; names missing packages and exits with code 1
#     setup.sh --reference  also .venv with PyTorch and a browser: `make test-reference`
#     setup.sh --fuzz       also clang with libFuzzer, sanitizers and OpenMP: `make fuzz`
#     setup.sh --cuda       also cuBLASLt and NCCL from PyPI into .cuda, if nvcc does not find them
#     setup.sh --cuda --disassemblers    also cuobjdump and nvdisasm: `make nvcc-check`
set -euo pipefail
cd "$(dirname "$0")"

# Each package, with a test for systems without dpkg: a command, a header or a pkg-config module.
parts=(
    gcc=command:gcc g++=command:g++ make=command:make pkg-config=command:pkg-config
    libhdf5-dev=module:hdf5-serial libstb-dev=header:stb/stb_image.h
    libyajl-dev=module:yajl libpopt-dev=module:popt libcairo2-dev=module:cairo libpng-dev=module:libpng fonts-dejavu-core=
    libssl-dev=module:openssl libpcre2-dev=module:libpcre2-8 libutf8proc-dev=module:libutf8proc
    libcmocka-dev=module:cmocka libopenmpi-dev=module:ompi-c openmpi-bin=command:mpirun
    libboost-context-dev=header:boost/context/detail/fcontext.hpp
)

say() { echo "setup: $*"; }
fail() { say "$@" >&2 && exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
has_apt() { command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; }

# missing PACKAGE...: prints those that dpkg does not list as installed.
missing() {
    comm -23 <(printf '%s\n' "$@" | sort) \
        <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort -u)
}
# not_seen: prints the packages whose test fails, for systems without dpkg.
not_seen() {
    local part probe
    for part in "${parts[@]}"; do
        probe=${part#*=}
        case $probe in
        command:*) command -v "${probe#*:}" >/dev/null ;;
        module:*) pkg-config --exists "${probe#*:}" 2>/dev/null ;;
        header:*) printf '#include <%s>\n' "${probe#*:}" | g++ -E -x c++ - >/dev/null 2>&1 ;;
        esac || echo "${part%%=*}"
    done
}
list() { if has_apt; then missing "${parts[@]%%=*}"; else not_seen; fi; }
install() { # install PACKAGE...
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

basics() {
    local names
    mapfile -t names < <(list)
    [ ${#names[@]} -gt 0 ] || return 0
    has_apt || fail "this is not Debian or Ubuntu: install by hand what Debian calls ${names[*]}, with headers and pkg-config files"
    install "${names[@]}"
}

check() {
    local names
    mapfile -t names < <(list)
    [ ${#names[@]} = 0 ] || fail "missing: ${names[*]}. \`make setup\` installs them."
}

python() { # python3 with venv
    command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null && return
    has_apt || fail "python3 with the venv module is missing"
    install python3 python3-venv
}

reference() {
    cmp -s tests/reference/requirements.txt .venv/requirements.txt 2>/dev/null && return
    python
    # The tests open reports in a browser.
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || { has_apt && install chromium; } ||
        fail "chromium is missing"
    say "installing the packages of tests/reference/requirements.txt into .venv"
    python3 -m venv .venv
    .venv/bin/pip install -q --only-binary=:all: -r tests/reference/requirements.txt
    .venv/bin/pip install -q --only-binary=:all: --no-deps -r tests/reference/requirements-vocabulary.txt
    cp tests/reference/requirements.txt .venv/requirements.txt
}

fuzz() {
    tests/build/find_clang.sh fuzzer,address >/dev/null && return
    has_apt || fail "clang with libFuzzer, AddressSanitizer and OpenMP is missing"
    install clang libomp-dev
    # Newer distributions have the sanitizers' libraries in a package of their own.
    tests/build/find_clang.sh fuzzer,address >/dev/null || install libclang-rt-dev
}

cuda() { # cuda [--disassemblers]
    local nvcc=${NVCC:-nvcc} home release major wanted=()
    command -v "$nvcc" >/dev/null || fail "$nvcc is missing: building for GPUs needs CUDA 12.4 or newer"
    # Ask nvcc for the toolkit's folder, since the command may be a wrapper.
    home=$(realpath "$("$nvcc" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')")
    release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p') major=${release%%.*}
    # PyPI's package names have a suffix for CUDA 12.
    local suffix=
    [ "$major" -ge 13 ] || suffix=-cu$major
    here() { ls "$home/include/$1" "$home"/targets/*/include/"$1" "/usr/include/$1" 2>/dev/null | grep -q .; }
    here cublasLt.h || wanted+=("nvidia-cublas$suffix==$release.*")
    here nccl.h || python3 -c 'import nvidia.nccl' 2>/dev/null || wanted+=("nvidia-nccl-cu$major")
    if [ "${1:-}" = --disassemblers ]; then
        command -v cuobjdump >/dev/null || wanted+=(nvidia-cuda-cuobjdump)
        command -v nvdisasm >/dev/null || wanted+=(nvidia-cuda-nvdisasm)
    fi
    # Installed packages stay: a later call without --disassemblers keeps the disassemblers.
    local package new=()
    for package in ${wanted[@]+"${wanted[@]}"}; do grep -qxF -- "$package" .cuda/packages 2>/dev/null || new+=("$package"); done
    [ ${#new[@]} -gt 0 ] || return 0
    python
    say "installing ${new[*]} into .cuda"
    [ -x .cuda/bin/pip ] || python3 -m venv .cuda
    .cuda/bin/pip install -q --only-binary=:all: "${new[@]}"
    printf '%s\n' "${new[@]}" >>.cuda/packages
}

case ${1:-} in
--check) check ;;
'') basics ;;
--reference) basics && reference ;;
--fuzz) basics && fuzz ;;
--cuda) basics && cuda "${2:-}" ;;
*) fail "unknown option $1" ;;
esac
