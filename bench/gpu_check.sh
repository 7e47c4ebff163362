#!/usr/bin/env bash
# Is this program right on this machine's GPU, and how fast is it? `make bundle` copies this file as check.sh beside the
# programs; it needs bash and the driver, and takes at most ten minutes.
#     check.sh [--out FOLDER] [--seconds N] [PART...]
# Parts (default: all): machine kernels training step speed pytorch bits residency sanitizer. A part that fails does not
# end the others; without a GPU only the machine's part runs and says so. Writes FOLDER/results.json and results.md
# (default: ./gpu-check); bench/README.md says how to read them. Takes the first GPU, or that of CUDA_VISIBLE_DEVICES.
set -u
shopt -s inherit_errexit 2>/dev/null
export LC_ALL=C.UTF-8 # awk reads and writes numbers with a point
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all=(machine kernels training step speed pytorch bits residency sanitizer) # the last may find no time left
out=$PWD/gpu-check seconds=600 parts=()
fail() { echo "check.sh: $*" >&2 && exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
    --out) [ $# -gt 1 ] || fail "--out needs a folder"; out=$(realpath -m "$2"); shift ;;
    --seconds) [[ ${2:-} =~ ^[1-9][0-9]{0,5}$ ]] || fail "--seconds ${2:-}: expected a number"; seconds=$2; shift ;;
    *) [[ " ${all[*]} " == *" $1 "* ]] || fail "$1: expected --out, --seconds or some of ${all[*]}"; parts+=("$1") ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=("${all[@]}")
[ -e "$here/built" ] || fail "$here has no programs: \`make bundle\` makes the folder that this file belongs to"
field() { sed -n "s/^$1 //p" "$here/built"; }
backend=$(field backend)
precisions=(fp32)
[ ! -d "$here/bf16" ] || precisions+=(bf16)
gpu=${GPU_CHECK_BIG:-$([ "$backend" = cuda ] && echo 1 || echo 0)} # 0: small sizes, to try this script without a GPU
runs=$([ "$gpu" = 1 ] && echo 15 || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
# One GPU, the same for every program, and counted as nvidia-smi counts them.
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} CUDA_DEVICE_ORDER=${CUDA_DEVICE_ORDER:-PCI_BUS_ID}
work=$(mktemp -d "${TMPDIR:-/tmp}/gpu-check-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/lib" && : >"$work/results" || exit 1

# cuBLASLt and NCCL of this machine: those that the program was built with (make gpu-check), those of Python's wheels, of
# conda, or the toolkit's; else what the dynamic linker finds.
for library in ${GPU_CHECK_LIBRARIES:-} $(python3 -c 'import nvidia; print(*nvidia.__path__)' 2>/dev/null) \
    ${CONDA_PREFIX:+"$CONDA_PREFIX/lib"} /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib; do
    find "$(realpath -m "$library")" -maxdepth 3 \( -name 'libcublasLt.so.*' -o -name 'libnccl.so.*' \) -exec ln -sn {} "$work/lib" \; 2>/dev/null
done
cd "$here" || exit 1
machine_path=${LD_LIBRARY_PATH:-} # also for PyTorch, which a library path of ours must not reach
torch=$(timeout 60 python3 -c 'import torch; print(torch.__version__)' 2>/dev/null || echo none)
export LD_LIBRARY_PATH=$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# ---- Results: one line "part<tab>name<tab>ok|failed|skipped<tab>seconds<tab>text" per check -----------------------------

left() { # left MOST: the seconds that a command may take, at most so many
    local rest=$((seconds - SECONDS))
    [ $rest -ge 1 ] || rest=1
    echo $((rest < $1 ? rest : $1))
}
note() { # note NAME STATE [SECONDS [TEXT]]
    local text=${4:-}
    text=${text//[$'\t\n']/ }
    printf '%s\t%s\t%s\t%s\t%s\n' "$part" "$1" "$2" "${3:-0}" "${text:0:300}" >>"$work/results"
    printf '%-8s %s: %s%s\n' "$2" "$part" "$1" "${text:+: ${text:0:300}}"
}
# check NAME SECONDS COMMAND...: the command succeeds within that time; its output is FOLDER/PART-NAME.log. Where a part
# sets if_slow or if_full to "skipped", more time or more of the GPU's memory than there is are no failures.
check() {
    local name=$1 limit log code text state started=$SECONDS
    log=$out/$part-$(tr -c 'a-zA-Z0-9_\n-' - <<<"$name").log
    if [ $SECONDS -ge "$seconds" ]; then
        note "$name" skipped 0 "the $seconds seconds are over"
        return 1
    fi
    limit=$(left "$2")
    timeout -k 5 "$limit" "${@:3}" >"$log" 2>&1
    code=$?
    [ $code != 124 ] || [ "$limit" = "$2" ] || code=over
    case $code in
    0) note "$name" ok $((SECONDS - started)) ;;
    over) note "$name" skipped $((SECONDS - started)) "not finished when the $seconds seconds were over" ;;
    124) note "$name" "${if_slow:-failed}" $((SECONDS - started)) "not finished after $2 s" ;;
    *)
        text=$(grep -aE 'FAILED|failed|error|cocogold:' "$log" | tail -n 1) state=failed
        [[ $text != *"cannot allocate "*" GB of GPU memory"* ]] || state=${if_full:-failed}
        note "$name" "$state" $((SECONDS - started)) "exit code $code: $text"
        ;;
    esac
    [ $code = 0 ]
}
tests() { find "$here/$1" -name 'test_*' -printf '%f\n' | sort; } # tests PRECISION

# ---- The parts --------------------------------------------------------------------------------------------------------

# Why no GPU can be used here, as the program says it; empty if one can, or if none is needed.
open=(bench layernorm --version 4 --check --shape 64,320)
no_gpu=
[ "$backend" != cuda ] ||
    no_gpu=$(timeout 60 fp32/cocogold "${open[@]}" 2>&1 | grep -oE 'no NVIDIA GPU can be used here.*|lib[^ ]* cannot be loaded.*')

smi() { # smi FIELD: of the GPU that is used, else, as for a part of one (MIG), of the first
    local gpu=${CUDA_VISIBLE_DEVICES%%,*} query=(nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits) value
    value=$("${query[@]}" ${gpu:+-i "$gpu"} 2>/dev/null) || value=$("${query[@]}" 2>/dev/null)
    head -n 1 <<<"$value"
}
part_machine() {
    local library
    check "the program starts" 60 "fp32/cocogold" --help
    check "a plan" 60 "fp32/cocogold" bench plan --preset sd2 --batch 2 --size 64
    [ -z "$no_gpu" ] || { note "the device opens" failed 0 "$no_gpu" && return; }
    for precision in "${precisions[@]}"; do
        check "the device opens, $precision" 60 "$precision/cocogold" "${open[@]}"
    done
    for library in "$work"/lib/*; do [ ! -e "$library" ] || note "$(basename "$library")" ok 0 "$(readlink "$library")"; done
}

part_kernels() { # every test, in both precisions
    local precision test
    for precision in "${precisions[@]}"; do
        for test in $(tests "$precision"); do
            CHECK_BITS=$work/bits-$precision-$test-1 check "$precision $test" 120 "$precision/$test" ||
                rm -f "$work/bits-$precision-$test-1"
        done
    done
}

part_bits() { # the same bits in every run, and from a replayed graph
    local precision test run bits
    for precision in "${precisions[@]}"; do
        for test in $(tests "$precision"); do
            for run in 1 2 3; do
                [ $SECONDS -lt "$seconds" ] || continue 2
                bits=$work/bits-$precision-$test-$run
                if [ ! -s "$bits" ]; then
                    CHECK_BITS=$bits timeout -k 5 "$(left 60)" "$precision/$test" >/dev/null 2>&1
                    case $? in
                    0) ;;
                    124) note "$precision $test: three runs" skipped 0 "run $run was too slow" && continue 2 ;;
                    *) note "$precision $test: three runs" failed 0 "run $run failed" && continue 2 ;;
                    esac
                fi
                [ -s "$bits" ] || continue 2 # it records none
            done
            same "$precision $test: three runs" "$work/bits-$precision-$test-"{1,2,3}
        done
        prepare "$precision" || continue
        train "$precision" 3 once && train "$precision" 3 twice && train "$precision" 3 thrice &&
            same "$precision training: three runs" "$work/$precision-"{once,twice,thrice}/model/unet/*.safetensors
        train "$precision" 3 launched --no-cuda-graph &&
            same "$precision training: a replayed graph" "$work/$precision-"{once,launched}/model/unet/*.safetensors
    done
}
# same NAME FILE FILE...: all have the same bytes
# shellcheck disable=SC2016
same() { check "$1" 60 bash -c 'for file in "${@:2}"; do cmp "$1" "$file" || exit; done' - "${@:2}"; }

part_residency() { # attention's ordered backward beside a second stream
    local precision
    for precision in "${precisions[@]}"; do
        check "$precision" 120 env $([ "$gpu" = 1 ] && echo RESIDENCY_RUNS=1000) "$precision/test_residency"
    done
}

# The mini model and its data, made by fp32 for both precisions.
prepare() {
    [ ! -e "$work/latents" ] || return 0
    (
        cd "$work" &&
            "$here/fp32/cocogold" synth data --train 40 --val 12 &&
            "$here/fp32/cocogold" init --preset mini model &&
            timeout "$(left 120)" "$here/fp32/cocogold" encode --model model --data data --split train --targets overlay --out encoded --min-side 1 &&
            mv encoded latents
    ) >"$out/prepare.log" 2>&1 && return 0
    note "data of the mini model" failed 0 "$(tail -n 1 "$out/prepare.log")"
    return 1
}
train() { # train PRECISION STEPS NAME [OPTION...]: the result is $work/PRECISION-NAME
    check "$1 $3" 120 "$1/cocogold" train --model "$work/model" --shards "$work/latents" --max-train-steps "$2" --lr 1e-4 \
        --train-batch-size 2 --gradient-accumulation-steps 2 --max-grad-norm 1 --ema-decay 0.9 --checkpoint-every 0 \
        --validate-every 0 --no-roofline --out "$work/$1-$3" "${@:4}"
}
numbers() { sed -nE 's/.*"step":([0-9]+),"loss":([^,]+),"grad_norm":([^,]+),.*/\1 \2 \3/p' "$1/log.jsonl"; }
# differ FILE FILE TOLERANCE: prints the largest relative differences of losses and norms; fails above the tolerance
differ() {
    paste -d' ' "$1" "$2" | awk -v t="$3" '
        function off(a, b) { return (a > b ? a - b : b - a) / (b > 0 ? b : 1) }
        { if (NF != 6 || $1 != $4) bad = 1; x = off($2, $5); if (x > loss) loss = x; y = off($3, $6); if (y > norm) norm = y }
        END { printf "%d steps, losses within %.1e, norms within %.1e (at most %s)\n", NR, loss, norm, t; exit !(NR == 10 && !bad && loss <= t && norm <= t) }'
}

part_training() { # ten steps of the mini model beside those of the CPU (bench/mini_steps.txt), and resumed
    local precision text
    grep -v '^#' bench/mini_steps.txt >"$work/expected"
    for precision in "${precisions[@]}"; do
        prepare || return
        train "$precision" 10 ten --checkpoint-every 5 || continue
        numbers "$work/$precision-ten" >"$out/steps-$precision"
        text=$(differ "$out/steps-$precision" "$work/expected" "$([ "$precision" = fp32 ] && echo 1e-4 || echo 3e-2)")
        note "$precision: ten steps and the CPU's" "$([ $? = 0 ] && echo ok || echo failed)" 0 "$text"
        cp -r "$work/$precision-ten" "$work/$precision-resumed"
        rm -rf "$work/$precision-resumed"/{model,checkpoint-000010} # as if it ended after step 5
        train "$precision" 10 resumed --checkpoint-every 5 --resume &&
            same "$precision resumed: same bits" "$work/$precision-"{ten,resumed}/model/unet/*.safetensors
    done
}

part_speed() { # each kernel alone, at the shapes of SD2's step
    local batch if_full=skipped
    for batch in $([ "$gpu" = 1 ] && echo 2 16 || echo 1); do
        check "kernels, batch $batch" 120 "${precisions[-1]}/cocogold" bench $([ "$gpu" = 1 ] && echo all || echo upsample) \
            --shapes sd2-64 --batch "$batch" --runs "$runs" --json "$out/speed-$batch.json"
    done
}

part_step() { # whole training steps
    local batch if_full=skipped
    for batch in $([ "$gpu" = 1 ] && echo 2 16 || echo 1); do
        check "step, batch $batch" 120 "${precisions[-1]}/cocogold" bench step --preset $([ "$gpu" = 1 ] && echo sd2 || echo mini) \
            --batch "$batch" --size $([ "$gpu" = 1 ] && echo 64 || echo 8) --runs "$runs" --json "$out/step-$batch.json" \
            --write-config "$out/unet.json"
    done
}

part_pytorch() { # the same in PyTorch on this GPU
    local options=(--seconds "$(left 180)" --runs "$runs")
    if [ "$torch" = none ]; then
        note "PyTorch" skipped 0 "python3 cannot import torch"
        return
    fi
    case $backend in
    cuda) ;;
    cpu) options+=(--device cpu --fp32) ;;
    *) note "PyTorch" skipped 0 "the emulation's times are compared with nothing" && return ;;
    esac
    check "PyTorch" 240 env LD_LIBRARY_PATH="$machine_path" python3 bench/torch_gpu.py "$out" "${options[@]}"
}

part_sanitizer() { # compute-sanitizer, where it exists
    local tool test started=$SECONDS sanitizer if_slow=skipped
    local -A options=([memcheck]='--report-api-errors no') # the program checks its own calls; cuBLASLt tries some that fail
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ "$backend" != cuda ] || [ -z "$sanitizer" ]; then
        note "compute-sanitizer" skipped 0 "it is not installed"
        return
    fi
    timeout "$(left 60)" "$sanitizer" "${precisions[-1]}/test_activation" >"$out/sanitizer.log" 2>&1
    if grep -qE 'Device not supported|Failed to initialize|Unable to find' "$out/sanitizer.log"; then
        note "compute-sanitizer" skipped 0 "$(grep -m1 -E 'not supported|Failed|Unable' "$out/sanitizer.log")"
        return
    fi
    for tool in memcheck racecheck synccheck; do
        for test in attention conv2d groupnorm layernorm linear optimizer loss; do
            [ $((SECONDS - started)) -lt 150 ] || { note "$tool test_$test" skipped 0 "150 s are over" && continue; }
            # shellcheck disable=SC2086
            check "$tool test_$test" 60 "$sanitizer" --tool $tool ${options[$tool]:-} --error-exitcode 99 "${precisions[-1]}/test_$test"
        done
    done
}

# ---- Run and report ---------------------------------------------------------------------------------------------------

quoted() { sed 's/\\/\\\\/g; s/"/\\"/g' <<<"${1//[[:cntrl:]]/ }"; }
count() { awk -F '\t' -v s="$1" '$3 == s { n++ } END { print n + 0 }' "$work/results"; }
facts() { # "key<tab>value" of the machine
    local key
    [ "$backend" != cuda ] || printf 'built with\tCUDA %s, for driver %s and newer\n' "$(field cuda)" "$(field driver)"
    printf 'date\t%s\nbackend\t%s\nbuilt for\t%s\nprocessor\t%s\n' "$(date -u +%F)" "$backend" "$(field architectures)" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    for key in name memory.total driver_version clocks.sm clocks.mem clocks.max.sm clocks.max.mem power.limit compute_cap; do
        [ "$backend" != cuda ] || printf 'gpu %s\t%s\n' "$key" "$(smi $key)"
    done
    printf 'PyTorch\t%s\n' "$torch"
}
write_json() {
    local separator='' key value file
    echo '{"machine": {'
    facts | while IFS=$'\t' read -r key value; do
        printf '%s"%s": "%s"' "$separator" "$key" "$(quoted "$value")" && separator=', '
    done
    echo '}, "checks": ['
    awk -F '\t' '{ gsub(/\\/, "\\\\"); gsub(/"/, "\\\"");
        printf "%s{\"part\": \"%s\", \"name\": \"%s\", \"state\": \"%s\", \"seconds\": %d, \"text\": \"%s\"}", (NR > 1 ? ",\n" : ""), $1, $2, $3, $4, $5 }' \
        "$work/results"
    echo '], "measured": {'
    separator=''
    for file in "$out"/{speed-*,step-*,pytorch}.json; do
        [ -s "$file" ] || continue
        printf '%s"%s": ' "$separator" "$(basename "$file" .json)" && cat "$file" && separator=', '
    done
    echo '}}'
}
write_markdown() {
    local file name
    name=$(smi name)
    printf '# cocogold on %s\n\nWritten by `check.sh`; bench/README.md says how to read it.\n\n| | |\n|---|---|\n' "${name:-a machine without nvidia-smi}"
    facts | awk -F '\t' '{ print "| " $1 " | " $2 " |" }'
    printf '\n| part | check | result | s | |\n|---|---|---|---|---|\n'
    awk -F '\t' '{ gsub(/\|/, "/"); print "| " $1 " | " $2 " | " $3 " | " $4 " | " $5 " |" }' "$work/results"
    for file in "$out"/{speed,step}-*.log; do
        if [ -s "$file" ]; then printf '\n## %s\n\n```\n%s\n```\n' "$(basename "$file" .log)" "$(cat "$file")"; fi
    done
    if [ -s "$out/pytorch.md" ]; then printf '\n' && cat "$out/pytorch.md"; fi
    printf '\n%s\n' "$last"
}

[ -z "$no_gpu" ] || parts=(machine) # nothing else can work: it is said once
# Only what is measured again is removed, so that parts can be run one after the other.
for part in "${parts[@]}"; do case $part in speed | step | pytorch) rm -f "$out/$part"-* "$out/$part".* ;; esac; done
for part in "${parts[@]}"; do "part_$part"; done
slower=$(cat "$out/pytorch-slower" 2>/dev/null || echo 0)
last="$(count ok) passed, $(count failed) failed, $slower slower than PyTorch"
write_json >"$out/results.json"
write_markdown >"$out/results.md"
echo "wrote $out/results.json and $out/results.md ($SECONDS s)"
echo "$last"
[ "$(count failed)" = 0 ]
