#!/usr/bin/env bash
# A new user's first command on a bare machine: a Debian root that debootstrap creates, with nothing but make, and a
# clean clone of the last commit in it.
#     tests/build/test_bare.sh [SUITE [TARGET]]     default: bookworm check; e.g. trixie test
# Plain `make` must install nothing and name what is missing. `make TARGET` must install it, pass, and skip nothing. The
# program must have MPI, and the list of tests must be the same as on this machine. The roots stay in build/bare/SUITE.
# Needs root and a network.
set -u
cd "$(dirname "$0")/../.."
suite=${1:-bookworm} target=${2:-check}
base=$PWD/build/bare/$suite root=$PWD/build/bare/$suite-run
passed=0 failed=0

skip() { echo "skipped: $*" && exit 0; }
ok() { passed=$((passed + 1)) && echo "ok      $*"; }
bad() { failed=$((failed + 1)) && echo "FAILED  $*"; }
verdict() { if "${@:2}"; then ok "$1"; else bad "$1"; fi; }
[ "$(id -u)" = 0 ] || skip "needs root"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
unshare --mount --pid --fork true 2>/dev/null || skip "cannot create namespaces"

# The mirror that this machine's apt uses, if it runs Debian.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ')
if [ ! -e "$base" ]; then
    echo "creating a bare $suite in build/bare"
    rm -rf "$base.new" && mkdir -p "${base%/*}"
    if ! debootstrap --variant=minbase --include=make,ca-certificates "$suite" "$base.new" ${mirror:+"$mirror"} >"$base.log" 2>&1; then
        tail -n 3 "$base.log"
        rm -rf "$base.new"
        skip "debootstrap cannot create $suite"
    fi
    mv "$base.new" "$base"
fi

# inside COMMAND: runs it in the root, with the environment of a fresh login, in a process namespace of its own.
inside() {
    # shellcheck disable=SC2016
    env -i unshare --mount --pid --fork bash -c '
        mount -t proc proc "$0/proc"; mount -t tmpfs tmpfs "$0/dev/shm" 2>/dev/null
        exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb chroot "$0" sh -c "cd /root/cocogold && $1"' "$root" "$1"
}
packages() { chroot "$root" dpkg-query -W | wc -l; }

rm -rf "$root" && cp -a "$base" "$root" || exit 1
printf '127.0.0.1 localhost %s\n' "$(hostname)" >"$root/etc/hosts" # as Debian's installer does
trap 'rm -rf "$root"' EXIT
git clone -q --no-hardlinks . "$root/root/cocogold" || exit 1

before=$(packages)
said=$(inside make 2>&1) && bad "make without set-up ends with an error" || ok "make without set-up ends with an error"
verdict "it names what is missing: $(grep -m 1 missing <<<"$said")" grep -q 'missing: .*libopenmpi-dev.*`make setup` installs them' <<<"$said"
verdict "it installed nothing" [ "$(packages)" = "$before" ]

log=build/test-logs/bare-$suite-$target.log
mkdir -p build/test-logs
started=$SECONDS
echo "make $target in a bare $suite; its output is in $log"
inside "make $target" >"$log" 2>&1
code=$?
tail -n 1 "$log"
verdict "make $target passes ($((SECONDS - started)) s)" [ $code = 0 ]
[ $code = 0 ] || tail -n 40 "$log"
verdict "nothing is skipped that set-up promises" bash -c "! grep 'skipped' '$log' | grep -vE 'nvcc is not installed|needs root|of them skipped'"
verdict "the program has MPI" bash -c "chroot '$root' ldd /root/cocogold/cocogold | grep -q libmpi"
verdict "two ranks train" inside 'make test T=cli/test_ranks BACKEND=cpu >ranks.log 2>&1 || { tail -n 20 ranks.log; exit 1; }'
for tier in check test; do
    verdict "make $tier has the tests of this machine" diff <(make -s BACKEND=cpu units TIER=$tier) <(inside "make -s BACKEND=cpu units TIER=$tier")
done
# Keep the downloaded packages for the next run.
cp -u "$root"/var/cache/apt/archives/*.deb "$base/var/cache/apt/archives/" 2>/dev/null
echo "$passed passed, $failed failed"
[ $failed = 0 ]
