#!/usr/bin/env bash
# Waiting threads (util/threads.h): they sleep unless the user sets another policy; and while two other programs are busy,
# two threads do not need a multiple of what one thread needs.
source "$(dirname "$0")/common.sh"
source "$root/tests/cli/ranks.sh"
unset OMP_WAIT_POLICY GOMP_SPINCOUNT KMP_BLOCKTIME KMP_LIBRARY

# ---- The policy ----------------------------------------------------------------------------------------------------

# starts [NAME=VALUE...]: starts a command that takes some seconds, with these variables, as process $pid.
starts() {
    env "$@" "$cocogold" synth pictures --train 100000 >/dev/null 2>&1 &
    pid=$!
}
# has PATTERN: the program runs, and its environment has such a line.
has() { [ "$(cat /proc/$pid/comm)" = "$(basename "$cocogold")" ] && tr '\0' '\n' </proc/$pid/environ | grep -qxE "$1"; }
ends() {
    kill -KILL $pid
    wait $pid 2>/dev/null
    rm -rf pictures
}

starts -u NOTHING
check "by default: OMP_WAIT_POLICY=passive, same process, same name" within 20 has OMP_WAIT_POLICY=passive
check "with a short spin: $(tr '\0' '\n' </proc/$pid/environ | grep '^GOMP')" has 'GOMP_SPINCOUNT=[0-9]{1,4}'
arguments=$(tr '\0' ' ' </proc/$pid/cmdline)
check "same arguments" [ "$arguments" = "$cocogold synth pictures --train 100000 " ]
sleep 0.5
check "it continues" kill -0 $pid
ends
for setting in OMP_WAIT_POLICY=active GOMP_SPINCOUNT=7 KMP_BLOCKTIME=1; do
    starts $setting
    check "the user's $setting" within 20 has $setting
    sleep 0.3 # enough time for a second start
    check_not "is not changed" has OMP_WAIT_POLICY=passive
    ends
done

cp "$cocogold" not-executable
chmod -x not-executable
loader=$(readelf -l "$cocogold" | sed -n 's/.*program interpreter: \(.*\)]/\1/p')
check_not "a program that cannot be executed" ./not-executable --help
check "it continues without a second start" timeout 20 "$loader" ./not-executable --help

# ---- With two busy programs ----------------------------------------------------------------------------------------

# Run everything on the same two cores, however many the machine has.
mapfile -t cores < <(taskset -cp $$ | sed 's/.*: //' | tr ',' '\n' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done)
[ ${#cores[@]} -ge 2 ] || { echo "skipped: one core"; finish; }
taskset -cp "${cores[0]},${cores[1]}" $$ >/dev/null
prepare
busy=()
trap 'kill "${busy[@]}" 2>/dev/null; rm -rf "$work"' EXIT
for _ in 1 2; do
    yes >/dev/null &
    busy+=($!)
done

# run THREADS: trains and sets $wall to the run's time and $cpu to its CPU time, in milliseconds. Spinning counts as CPU
# time.
run() {
    local TIMEFORMAT='%3R %3U %3S' times
    times=$({ time OMP_NUM_THREADS=$1 timeout 120 "$cocogold" "${unet[@]}" --train-batch-size 16 \
        --checkpoint-every 0 --gradient-accumulation-steps 1 --out "threads$1" >threads.log 2>&1; } 2>&1)
    [ "$(lines "threads$1")" = 10 ] || result 1 "10 steps on $1 threads" "$(tail -n 5 threads.log)"
    rm -rf "threads$1"
    read -r wall cpu < <(awk '{ print 1000 * $1, 1000 * ($2 + $3) }' <<<"$times")
}
least() { [ -z "$1" ] || [ "$2" -lt "$1" ] && echo "$2" || echo "$1"; }
for _ in 1 2 3; do
    run 1
    wall1=$(least "${wall1:-}" "$wall") cpu1=$(least "${cpu1:-}" "$cpu")
    run 2
    wall2=$(least "${wall2:-}" "$wall") cpu2=$(least "${cpu2:-}" "$cpu")
done
# Without the policy, two threads need 20 times the CPU time of one thread, and even more wall time. With it they need up
# to 2.1 times the CPU time where two cores are the two halves of one.
check "two threads compute for $cpu2 ms, at most 5 times one thread's $cpu1" [ "$cpu2" -le $((5 * cpu1)) ]
check "two threads need $wall2 ms, at most 5 times one thread's $wall1" [ "$wall2" -le $((5 * wall1)) ]
finish
