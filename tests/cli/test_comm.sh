#!/usr/bin/env bash
# Communication between ranks, without the trainer: values on 1, 2 and 4 ranks over MPI (cpu) and NCCL's stand-in (emu);
# starting by mpirun and with torchrun's variables; and that an error in one rank ends all ranks with a sentence.
source "$(dirname "$0")/common.sh"
command -v mpirun >/dev/null || { echo "skipped: no mpirun"; echo "0 passed, 0 failed"; exit 0; }
source "$root/tests/cli/ranks.sh"
export OMPI_MCA_mpi_yield_when_idle=1 # for the test of the stand-in

build() { make --no-print-directory -C "$root" "BACKEND=$1" PRECISION=fp32 "${@:2}"; }
check "build for cpu" build cpu build/cpu-fp32/tests/runtime/test_comm build/cpu-fp32/tests/runtime/test_rendezvous
check "build for emu" build emu build/emu-fp32/tests/runtime/test_comm build/emu-fp32/tests/emu/test_nccl
comm() { echo "$root/build/$1-fp32/tests/runtime/test_comm"; }
nccl=$root/build/emu-fp32/tests/emu/test_nccl
rendezvous=$root/build/cpu-fp32/tests/runtime/test_rendezvous

# Sets torchrun's variables, but starts by mpirun, which the stand-in needs. The unique ids then go over TCP.
as_torchrun() {
    # shellcheck disable=SC2016
    MASTER_ADDR=localhost MASTER_PORT=$(free_port) timeout 120 mpirun -np "$1" bash -c '
        export RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE LOCAL_RANK=$OMPI_COMM_WORLD_LOCAL_RANK
        exec "$@"' - "${@:2}"
}
by_mpirun() { timeout 120 mpirun -np "$@"; }

# ends NAME TEXT COMMAND...: fails within a minute, a line of its output contains TEXT, and no incomplete file is left.
ends() {
    local name=$1 text=$2 said code started=$SECONDS
    shift 2
    said=$("$@" 2>&1)
    code=$?
    local seconds=$((SECONDS - started))
    if [ $code != 0 ] && [ $code != 124 ] && [ $seconds -le 60 ] && grep -qF -- "$text" <<<"$said" && [ ! -e half-written ]; then
        result 0 "$name ($seconds s): $(grep -F -m 1 -- "$text" <<<"$said" | cut -c1-160)"
    else
        result 1 "$name" "exit $code after $seconds s, expected a line with \"$text\": $said"
    fi
}

# Values.
for ranks in 1 2 4; do
    check "cpu, $ranks ranks" by_mpirun $ranks "$(comm cpu)"
    check "emu, $ranks ranks" by_mpirun $ranks "$(comm emu)"
    check "NCCL's stand-in, $ranks ranks" by_mpirun $ranks "$nccl"
done
check "emu, 3 ranks, streams at random, torchrun's variables" env EMU_DELAY=random:$RANDOM bash -c "$(declare -f as_torchrun free_port); as_torchrun 3 $(comm emu)"
check "cpu, 3 ranks, torchrun's variables" as_torchrun 3 "$(comm cpu)"

# Ranks that make different calls.
for backend in cpu emu; do
    for scenario in count order root host; do
        [ $backend = emu ] && [ $scenario != host ] && differ="the ranks' collectives differ" || differ="the ranks' calls differ"
        ends "$backend: another $scenario" "$differ: rank 0" by_mpirun 3 "$(comm $backend)" $scenario 1
    done
done
ends "cpu: one call less" "the ranks' calls differ: rank 0 is in comm_all_reduce_sum (size 1000, root 0), rank 1 in comm_close" \
    by_mpirun 3 "$(comm cpu)" fewer 1
ends "emu: one call less" "not all of the 3 ranks have called it within 8 s" env EMU_NCCL_SECONDS=8 timeout 120 mpirun -np 3 "$(comm emu)" fewer 1
for scenario in count type root order destroy; do
    ends "NCCL's stand-in: another $scenario" "the ranks' collectives differ" by_mpirun 2 "$nccl" $scenario
done
ends "NCCL's stand-in: overlap" "the buffers overlap" by_mpirun 2 "$nccl" overlap
ends "NCCL's stand-in: ids" "different unique ids" by_mpirun 2 "$nccl" id
ends "NCCL's stand-in: number of ranks" "for 3 ranks, but mpirun has started 2" by_mpirun 2 "$nccl" world
ends "NCCL's stand-in: one rank twice" "two processes call ncclCommInitRank as rank 0" by_mpirun 2 "$nccl" rank

# Builds without MPI or NCCL, for one rank.
build_for_one() { # build_for_one OUTPUT OBJECT-OR-SOURCE...
    printf '%s\n' '#include "kernels/runtime/comm.h"' 'int main(void) { Launch l = launch_detect(); Comm c; comm_meet(&c, &l); }' >main.c
    gcc -std=gnu11 -D_GNU_SOURCE -DBACKEND_cpu -DPRECISION_fp32 "-I$root" main.c "${@:2}" "$root/kernels/runtime/comm_host.c" \
        "$root"/util/{error,file,memory,progress,text}.c "$root"/kernels/runtime/{launch,rendezvous}.c -o "$1" -lcrypto -lpthread -lm
}
check "build without MPI" build_for_one no-mpi "$root/kernels/runtime/comm.c"
check "build without NCCL" eval 'g++ -x c++ -std=c++17 "-I$root" "-I$root/tests/emu" -DBACKEND_emu -DPRECISION_fp32 -c "$root/kernels/runtime/comm.cu" -o comm.o &&
    build_for_one no-nccl comm.o'
one_of_two=(env RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=1)
ends "two ranks without MPI" "as one of 2 ranks, but this program was built for one rank, without MPI: install" "${one_of_two[@]}" ./no-mpi
ends "two ranks without NCCL" "as one of 2 ranks, but this program was built for one rank, without NCCL: run ./setup.sh --cuda" \
    "${one_of_two[@]}" ./no-nccl
check "one rank without MPI" ./no-mpi
check "one rank without NCCL" ./no-nccl

# Ranks that die. The sentence is mpirun's, or cocogold's if mpirun does not watch the ranks.
for backend in cpu emu; do
    ends "$backend: die() in rank 1" "cocogold: rank 1: data.h5: is damaged" by_mpirun 3 "$(comm $backend)" die 1
    ends "$backend: rank 2 is killed" "process rank 2" by_mpirun 3 "$(comm $backend)" kill 2
    ends "$backend: rank 0 is killed" "process rank 0" by_mpirun 3 "$(comm $backend)" kill-host 0
done
ends "emu: die() in rank 1, where a library's exit handler waits" "cocogold: rank 1: data.h5: is damaged" by_mpirun 3 "$(comm emu)" die-library 1
# Which of the two others says it first is chance: mpirun ends the last one. (`started` below asks each of them.)
ends "cpu: rank 2 is killed, seen over TCP" ": rank 2 (" as_torchrun 3 "$(comm cpu)" kill 2
ends "cpu: torchrun's variables without mpirun" "but MPI says rank 0 of 1: start with Open MPI's mpirun" \
    env RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=1 "$(comm cpu)"
ends "emu: rank 2 is killed, seen over TCP" ": rank 2 (" as_torchrun 3 "$(comm emu)" kill 2
ends "emu: die() in rank 0, seen over TCP" "cocogold: rank 0: data.h5: is damaged" as_torchrun 3 "$(comm emu)" die 0

# started VARIABLES RANKS KILLED OWN: starts so many processes with these variables (in OWN, @ is the rank), without a
# launcher, and kills one. All others must exit with code 1 and a sentence with its number.
started() {
    local ranks=$2 killed=$3 pids=() rank code bad=0 started
    for ((rank = 0; rank < ranks; rank++)); do
        # shellcheck disable=SC2086
        env $1 bash -c "export ${4//@/$rank}; exec $rendezvous work" >"rank-$rank" 2>&1 &
        pids+=($!)
    done
    for _ in $(seq 300); do
        grep -q 'has met' "rank-$killed" && break
        sleep 0.1
    done
    kill -KILL "${pids[$killed]}"
    started=$SECONDS
    for ((rank = 0; rank < ranks; rank++)); do
        wait "${pids[$rank]}"
        code=$?
        cat "rank-$rank"
        [ "$rank" = "$killed" ] && continue
        [ $code = 1 ] && grep -q "^cocogold: rank $rank: rank $killed (.*) has ended before the others" "rank-$rank" || bad=1
    done
    [ $bad = 0 ] && [ $((SECONDS - started)) -le 10 ]
}
check "torchrun's variables: rank 1 of 3 is killed" started "WORLD_SIZE=3 MASTER_ADDR=127.0.0.1 MASTER_PORT=$(free_port)" 3 1 "RANK=@ LOCAL_RANK=@"
name=$(hostname)
getent hosts "$name" >/dev/null || name=0.0.0.0
check "torchrun's variables: rank 0 of 3 is killed" started "COCOGOLD_SECRET=$RANDOM WORLD_SIZE=3 MASTER_ADDR=$name MASTER_PORT=$(free_port)" 3 0 "RANK=@ LOCAL_RANK=@"
check "Slurm's variables: rank 2 of 3 is killed" started \
    "SLURM_STEP_NUM_TASKS=3 SLURM_STEP_NODELIST=localhost SLURM_JOB_ID=$RANDOM SLURM_STEP_ID=0" 3 2 "SLURM_PROCID=@ SLURM_LOCALID=@"
finish
