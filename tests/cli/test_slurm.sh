#!/usr/bin/env bash
# Ranks started by a real Slurm. The test starts its own munged, slurmctld and slurmd, in its temporary folder and on
# loopback. The commands are those of docs/RANKS.md.
source "$(dirname "$0")/common.sh"
source "$root/tests/cli/ranks.sh"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
skip() { echo "skipped: $1"; echo "0 passed, 0 failed"; exit 0; }
for program in munged slurmctld slurmd srun sbatch scancel scontrol squeue sinfo; do
    command -v $program >/dev/null || skip "Slurm is not installed (no $program)"
done

# ---- A cluster of one node -----------------------------------------------------------------------------------------

unset "${!SLURM_@}" # the test may itself run in a Slurm job
export SLURM_CONF=$work/slurm.conf
mkdir slurm-state slurm-spool
me=$(id -un)
cat >slurm.conf <<TEXT
ClusterName=cocogold
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket,cred_expire=5
SlurmUser=$me
SlurmdUser=$me
StateSaveLocation=$work/slurm-state
SlurmdSpoolDir=$work/slurm-spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
MailProg=/bin/true
KillWait=30
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES
TEXT
srun --mpi=list 2>&1 | grep -qw pmix || skip "this Slurm was built without pmix"

daemons=()
daemon() { # daemon NAME ARGUMENTS...: runs in the background until the test ends
    "$@" >"$1.log" 2>&1 &
    daemons+=($!)
}
no_jobs() { [ -z "$(squeue --noheader 2>&1)" ]; }
some_jobs() { ! no_jobs; }
idle() { [ "$(sinfo --noheader -o %T 2>/dev/null)" = idle ]; }
# shellcheck disable=SC2317 # by trap
stop_cluster() {
    local pid
    if [ ${#daemons[@]} = 3 ]; then
        timeout 10 scancel --signal=KILL --full --user="$me" 2>/dev/null
        timeout 10 scancel --user="$me" 2>/dev/null
        within 10 no_jobs
    fi
    for pid in "${daemons[@]}"; do
        kill "$pid" 2>/dev/null
        within 5 ended "$pid" || kill -KILL "$pid"
        wait "$pid" 2>/dev/null
    done
    rm -rf "$work"
}
trap stop_cluster EXIT
trap 'exit 1' INT TERM HUP

(umask 077 && head -c 1024 /dev/urandom >munge.key)
daemon munged --foreground --force --socket="$work/munge.socket" --key-file="$work/munge.key" --origin=127.0.0.1 \
    --pid-file="$work/munged.pid" --log-file="$work/munged.own-log" --seed-file="$work/munged.seed"
within 10 test -S munge.socket || { result 1 "munged starts" "$(cat munged*log)"; finish; }
daemon slurmctld -D -f "$SLURM_CONF"
daemon slurmd -D -f "$SLURM_CONF" -N localhost
within 30 idle || { result 1 "the node is ready" "$(tail -n 20 slurmctld.log slurmd.log; sinfo 2>&1)"; finish; }
result 0 "$(slurmctld -V) runs, PMIx $(srun --mpi=list 2>&1 | grep -o 'pmix_v.*')"

# ---- Two ranks -----------------------------------------------------------------------------------------------------

prepare
unet+=(--gradient-accumulation-steps 4) # steps long enough for a signal to arrive between two
two=("$cocogold" "${unet[@]}" --train-batch-size 2)
tasks() { timeout 120 srun -n 2 "$@"; }

check "one rank" "$cocogold" "${unet[@]}" --train-batch-size 4 --out one
check "srun -n 2 --mpi=pmix" tasks --mpi=pmix "${two[@]}" --out two
check_close "compared with one rank" two one
check "the log has the number of ranks" grep -q '"kind":"step".*"world":2' two/log.jsonl

said=$(tasks "${two[@]}" --out none 2>&1)
check "without --mpi: $(grep -m 1 -o 'rank 0: .*' <<<"$said")" grep -q 'cocogold: rank 0: .*srun --mpi=pmix' <<<"$said"

# ---- Signals, batch scripts ----------------------------------------------------------------------------------------

# srun forwards the signal.
srun -n 2 --mpi=pmix "${two[@]}" --checkpoint-every 0 --out usr1 >usr1.log 2>&1 &
srun=$!
reach usr1 3 kill -0 $srun
kill -USR1 $srun
within 60 ended $srun || kill -KILL $srun
wait $srun
check "kill -USR1 of srun: a checkpoint, exit code 138" [ $? = 138 ]
check "it is of step $(lines usr1), the last one" saved_last usr1
check "--resume" tasks --mpi=pmix "${two[@]}" --checkpoint-every 0 --resume --out usr1
check "same bits as the uninterrupted run" same_bits usr1 two

cat >train.sh <<TEXT
#!/bin/bash
#SBATCH --nodes 1 --ntasks-per-node 2
#SBATCH --cpus-per-task 1 --signal USR1@300 --requeue --open-mode append
export SRUN_CPUS_PER_TASK=1
srun --kill-on-bad-exit=1 --mpi=pmix ${two[*]} --checkpoint-every 0 --resume --out batch
code=\$?
[ \$code != 138 ] || scontrol requeue "\$SLURM_JOB_ID"
exit \$code
TEXT
submit() { job=$(timeout 20 sbatch --parsable --output="$1" train.sh); }
waiting() { [ "$(squeue --noheader -o %T 2>&1)" = PENDING ]; }
submit batch.log
reach batch 3 some_jobs
check "scancel --signal USR1 of a batch job" timeout 20 scancel --signal USR1 "$job"
check "it waits for its next turn" within 60 waiting
check "with a checkpoint of step $(lines batch), its last one" saved_last batch
check "in that turn it ends" within 120 no_jobs
check "same bits as the uninterrupted run" same_bits batch two

submit again.log
check "a finished run ends at once" within 60 no_jobs
check "nothing was added" [ "$(lines batch)" = 10 ]

# ---- Without MPI: Slurm's variables only, as for the CUDA program ---------------------------------------------------

rendezvous=$root/build/cpu-fp32/tests/runtime/test_rendezvous
check "build" make --no-print-directory -C "$root" BACKEND=cpu PRECISION=fp32 "${rendezvous#"$root/"}"
# shellcheck disable=SC2016
srun -n 3 bash -c 'echo $$ >.pid-$SLURM_PROCID; exec "$0" work' "$rendezvous" >meet.log 2>&1 &
srun=$!
met() { [ "$(grep -c 'has met the others' meet.log)" = 3 ]; }
within 30 met
check "three tasks meet: $(grep -m 1 -o 'met the others .*' meet.log)" met
kill -KILL "$(cat .pid-2)"
check "one is killed: all end" within 30 ended $srun
wait $srun
for rank in 0 1; do
    check "rank $rank names it" grep -q "^cocogold: rank $rank: rank 2 (.*) has ended before the others" meet.log
done
finish
