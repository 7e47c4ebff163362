#!/usr/bin/env bash
# Installs the packages that cocogold needs from the distribution (Debian, Ubuntu), which takes root or sudo. What is
# already there is not installed, wherever it is: by dpkg, or where the compiler and pkg-config look (PKG_CONFIG_PATH,
# CPATH, PATH). MPI= leaves out Open MPI.
#     setup.sh              compilers and libraries: `make demo`, `make test`
#     setup.sh --check [BACKEND]    installs nothing; names packages that the build lacks and exits with code 1
#     setup.sh --reference  also .venv with PyTorch and a browser: `make test-reference`, bench/*.py
#     setup.sh --fuzz       also clang with libFuzzer, sanitizers and OpenMP: `make fuzz`
#     setup.sh --cuda       also cuBLASLt and NCCL from PyPI into .cuda, if nvcc does not find them
#     setup.sh --cuda --disassemblers    also cuobjdump and nvdisasm: `make nvcc-check`
set -euo pipefail
cd "$(dirname "$0")"

# Each package, with a test for its contents: a command, a header, a font, or pkg-config modules of which one is enough.
build=(
    gcc=command:gcc g++=command:g++ make=command:make pkg-config=command:pkg-config
    libhdf5-dev=module:hdf5-serial,hdf5 libstb-dev=header:stb_image.h
    libyajl-dev=module:yajl libpopt-dev=module:popt libcairo2-dev=module:cairo libpng-dev=module:libpng
    libssl-dev=module:openssl libpcre2-dev=module:libpcre2-8 libutf8proc-dev=module:libutf8proc
    libopenmpi-dev=module:ompi-c,ompi,mpi-c
)
emu=(libboost-context-dev=header:boost/context/detail/fcontext.hpp) # BACKEND=emu
tests=(openmpi-bin=command:mpirun fonts-dejavu-core=font:DejaVuSans.ttf libcmocka-dev=module:cmocka)

say() { echo "setup: $*"; }
fail() { say "$@" >&2 && exit 1; }
has_apt() { command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
may_be_root() { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo true 2>/dev/null; }; }

finds() { # finds KIND:NAME[,NAME...]
    local names=${1#*:} name
    case $1 in
    command:*) command -v "$names" >/dev/null ;;
    header:*) printf '#include <%s>\n' "$names" | g++ -E -x c++ -I/usr/include/stb - >/dev/null 2>&1 ;;
    font:*) [ "$(find ~/.fonts ~/.local/share/fonts /usr/{,local/}share/fonts -name "$names" -print -quit 2>/dev/null)" ] ;;
    module:*)
        for name in ${names//,/ }; do pkg-config --exists "$name" 2>/dev/null && return; done
        return 1
        ;;
    esac
}
has_package() { dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }
missing() { # missing PACKAGE=TEST...: prints the packages that neither their test nor dpkg finds
    local part
    for part in "$@"; do
        [ "${MPI-set}" ] || [[ $part != *openmpi* ]] || continue # MPI=
        finds "${part#*=}" || has_package "${part%%=*}" || echo "${part%%=*}"
    done
}

install() { # install PACKAGE...
    has_apt || fail "this is not Debian or Ubuntu: install by hand what Debian calls $*, with headers and pkg-config files"
    may_be_root || fail "this needs root or sudo: let an administrator run \`apt-get install --no-install-recommends $*\`"
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

basics() {
    local names
    mapfile -t names < <(missing "${build[@]}" "${emu[@]}" "${tests[@]}")
    [ ${#names[@]} -gt 0 ] || return 0
    if ! { has_apt && may_be_root; } && [ ! "$(missing "${build[@]}")" ]; then
        say "continuing without ${names[*]}, which only tests need"
    else
        install "${names[@]}"
    fi
}

check() { # check [BACKEND]
    local parts=("${build[@]}") names without=
    [ "${1:-}" != emu ] || parts+=("${emu[@]}")
    mapfile -t names < <(missing "${parts[@]}")
    [[ ${names[*]-} != *openmpi* ]] || without=" (\`make MPI=\` builds without Open MPI)"
    [ ${#names[@]} = 0 ] || fail "missing: ${names[*]}. \`make setup\` installs them, with root or sudo$without."
}

# ---- Packages of PyPI ------------------------------------------------------------------------------------------------

python() { # python3 with venv
    python3 -c 'import venv, ensurepip' 2>/dev/null || install python3 python3-venv
}
environment() { # environment FOLDER: a virtual environment with pip; one that was only half made is finished
    "$1/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv "$1"
}

# .venv/requirements.txt is written last: without it .venv is not finished.
reference() {
    local requirements=tests/reference/requirements.txt
    cmp -s $requirements .venv/requirements.txt 2>/dev/null && return
    python
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$requirements needs Python 3.11 or newer, and python3 is $(python3 -c 'import platform; print(platform.python_version())')"
    say "installing the packages of $requirements into .venv"
    environment .venv
    .venv/bin/pip install -q --only-binary=:all: -r $requirements
    .venv/bin/pip install -q --only-binary=:all: --no-deps -r ${requirements%.txt}-vocabulary.txt
    cp $requirements .venv/requirements.txt
    # One test opens reports in a browser.
    command -v chromium chromium-browser google-chrome >/dev/null || (install chromium) ||
        say "without chromium, the test of reports in a browser is skipped"
}

fuzz() {
    tests/build/find_clang.sh fuzzer,address >/dev/null && return
    has_apt || fail "clang with libFuzzer, AddressSanitizer and OpenMP is missing"
    install clang libomp-dev
    # Newer distributions have the sanitizers' libraries in a package of their own.
    tests/build/find_clang.sh fuzzer,address >/dev/null || install libclang-rt-dev
}

# from_pypi PACKAGE...: installs packages into .cuda. Those that it lists stay: a call without the disassemblers keeps them.
from_pypi() {
    local package new=()
    for package in "$@"; do grep -qxF -- "$package" .cuda/packages 2>/dev/null || new+=("$package"); done
    [ ${#new[@]} -gt 0 ] || return 0
    python && say "installing ${new[*]} into .cuda" && environment .cuda && touch .cuda/packages &&
        sed -i "$(printf '/^%s\\(==\\|$\\)/d;' "${new[@]%%==*}")" .cuda/packages && # other versions, which pip replaces
        .cuda/bin/pip install -q --only-binary=:all: "${new[@]}" && printf '%s\n' "${new[@]}" >>.cuda/packages
}

cuda() { # cuda [--disassemblers]
    local nvcc home release major suffix= optional=() tool
    read -ra nvcc <<<"${NVCC:-nvcc}" # may have options
    command -v "${nvcc[0]}" >/dev/null || fail "${nvcc[0]} is missing: building for GPUs needs CUDA 12.4 or newer"
    # Ask nvcc for the toolkit's folder, since the command may be a wrapper.
    home=$(realpath "$("${nvcc[@]}" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')")
    release=$("${nvcc[@]}" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p') major=${release%%.*}
    # PyPI's package names have a suffix for CUDA 12.
    [ "$major" -ge 13 ] || suffix=-cu$major
    here() { [ "$(ls "$home"/{,targets/*/}include/"$1" "/usr/include/$1" 2>/dev/null)" ]; }
    here cublasLt.h || from_pypi "nvidia-cublas$suffix==$release.*"
    # The rest is not needed to build: a machine without a network does without it.
    here nccl.h || python3 -c 'import nvidia.nccl' 2>/dev/null || optional+=("nvidia-nccl-cu$major")
    if [ "${1:-}" = --disassemblers ]; then
        for tool in cuobjdump nvdisasm; do command -v $tool >/dev/null || optional+=("nvidia-cuda-$tool"); done
    fi
    [ ${#optional[@]} = 0 ] || (PIP_RETRIES=1 from_pypi "${optional[@]}") ||
        say "continuing without: a build without NCCL trains on one GPU, and \`make nvcc-check\` needs the disassemblers"
}

case ${1:-} in
--check) check "${2:-}" ;;
'') basics ;;
--reference) basics && reference ;;
--fuzz) basics && fuzz ;;
--cuda) basics && cuda "${2:-}" ;;
*) fail "unknown option $1" ;;
esac
