# Shared by the tests of several ranks; source it after common.sh.
# shellcheck disable=SC2034 # the tests use unet
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_btl=^tcp # all ranks are on this machine
# The same for Open MPI 5.
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

unet=(train --model model --shards latents --max-train-steps 10 --lr 1e-4
    --max-grad-norm 1 --ema-decay 0.9 --checkpoint-every 4 --validate-every 0 --no-roofline)

free_port() { # a port at which no program listens
    local port
    while port=$((20000 + RANDOM % 10000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo $port
}
numbers() { # numbers OUT: step, loss and norm of all steps in the log
    sed -nE 's/.*"step":([0-9]+),"loss":([^,]+),"grad_norm":([^,]+),.*/\1 \2 \3/p' "$1/log.jsonl"
}
lines() { numbers "$1" 2>/dev/null | grep -c ''; }
# The program's folder is build/BACKEND-PRECISION. On different numbers of ranks, bf16 products of other sizes round
# differently.
build=$(basename "$(dirname "$cocogold")")
tolerance=$([[ $build == *-bf16* ]] && echo 2e-2 || echo 1e-6)
# close A B: checks that steps are the same, and losses and norms equal; prints the largest relative difference.
close() {
    paste -d' ' <(numbers "$1") <(numbers "$2") | awk -v t=$tolerance '
        function off(a, b) { return (a > b ? a - b : b - a) / (b > 0 ? b : 1) }
        { if (NF != 6 || $1 != $4) bad = 1; x = off($2, $5); if (x > most) most = x; x = off($3, $6); if (x > most) most = x }
        END { printf "%d steps, largest relative difference %.1e\n", NR, most; exit !(NR && !bad && most <= t) }'
}
check_close() { # check_close NAME A B
    local text code
    text=$(close "$2" "$3")
    code=$?
    result $code "$1: $text"
}
same_bits() { # same_bits A B: compares weights and their average
    for module in unet unet_ema; do cmp "$1/model/$module"/*.safetensors "$2/model/$module"/*.safetensors || return; done
}
saved_last() { # saved_last OUT: it stopped before its end, with a checkpoint of the last step in its log
    [ ! -e "$1/model" ] && ls "$1/checkpoint-$(printf %06d "$(lines "$1")")/trainer/state.json"
}
reach() { # reach OUT STEPS COMMAND...: waits until the log has so many steps or COMMAND fails, at most a minute
    local _
    for _ in $(seq 3000); do
        [ "$(lines "$1")" -ge "$2" ] && break
        "${@:3}" 2>/dev/null || break
        sleep 0.02
    done
}
within() { # within SECONDS COMMAND...: repeats the command until it succeeds
    local _
    for _ in $(seq $(($1 * 10))); do
        "${@:2}" && return 0
        sleep 0.1
    done
    return 1
}
ended() { ! kill -0 "$1" 2>/dev/null; } # ended PID
