#!/usr/bin/env bash
# cocogold bench: its table has every kernel, it writes tables and files, and mistakes give one sentence.
set -u
program=${COCOGOLD:-./cocogold}
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() { # check WHAT COMMAND...
    if "${@:2}"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: $1"
    fi
}
refuses() { # refuses SENTENCE ARGUMENTS...: exit code 1 and one line that contains SENTENCE
    "$program" bench "${@:2}" >/dev/null 2>"$work/message"
    [ $? = 1 ] && [ "$(wc -l <"$work/message")" = 1 ] && grep -qF -- "$1" "$work/message"
}
benched() { # bench_kernels.c calls every function of kernels.h
    missing=$(functions | while read -r name; do grep -qE "TIME\($name\(" bench/bench_kernels.c || echo "$name"; done)
    [ -z "$missing" ] || { echo "not in bench/bench_kernels.c: $missing"; false; }
}

functions() { grep -oE '^void [a-zA-Z0-9_]+' kernels/kernels.h | cut -d' ' -f2; }
costed() { # cost.h has each function's cost once, in the order of kernels.h, and all backends report it
    local wrong="" name file calls
    diff <(functions) <(grep -oE '^static inline Cost [a-zA-Z0-9_]+_cost\(' kernels/cost.h | sed -E 's/.* (.*)_cost\($/\1/' |
        grep -vxE 'matrix|plain|cast') >&2 || wrong="cost.h "
    for file in kernels/*.c kernels/*.cu kernels/*.cuh kernels/cpu.h kernels/gemm.h; do
        # One call per line: device_launch(dev, "NAME", NAME_cost(
        calls=$(tr -s ' \n' ' ' <$file | grep -oE '[^a-zA-Z0-9_]device_launch *\([^(]*\(?')
        for name in $(functions); do
            grep -qE "^void $name\(" $file || continue
            [ "$(grep -cF "device_launch(dev, \"$name\", ${name}_cost(" <<<"$calls")" = 1 ] || wrong+="$file:$name "
        done
        [ "$(grep -c . <<<"$calls")" = "$(functions | while read -r name; do grep -oE "^void $name\(" $file; done | wc -l)" ] ||
            wrong+="$file "
    done
    [ -z "$wrong" ] || { echo "these differ from kernels/cost.h: $wrong" >&2; false; }
}

check "every function of kernels.h has a benchmark" benched
check "every function of kernels.h has one cost" costed
"$program" bench groupnorm --runs 1 --json "$work/groupnorm.json" >"$work/groupnorm"
check "bench groupnorm exits with 0" [ $? = 0 ]
check "rows of groupnorm_forward" grep -qE '^  groupnorm_forward +mini +16,256,32,8,1 +[0-9.]+ ' "$work/groupnorm"
check "rows of groupnorm_backward" grep -qE '^  groupnorm_backward +sd2 .*%$' "$work/groupnorm"
check "groupnorm's JSON" grep -q '"function": "groupnorm_backward"' "$work/groupnorm.json"
"$program" bench linear --runs 1 --shape 8,16,24 >"$work/linear"
check "bench linear --shape" grep -qE '^  linear_backward +given +8,16,24 ' "$work/linear"
"$program" bench timestep_embedding --shapes sd2-64 --batch 6 --runs 1 >"$work/batch"
check "bench --shapes sd2-64 --batch" grep -qE '^  timestep_embedding_forward +sd2-64 +6,320 ' "$work/batch"
check "a batch that is too large" refuses "--batch 2000: is too large for bench elementwise" elementwise --shapes sd2-64 --batch 2000
if [ "$(awk '/MemAvailable/ { print $2 }' /proc/meminfo)" -gt 4000000 ]; then
    "$program" bench optimizer --shapes sd2-64 --batch 6 --runs 1 >"$work/batch"
    check "--batch does not scale the parameters" grep -qE '^  adam_update +sd2-64 +108240280 ' "$work/batch"
fi
check "a layer that SD2's step does not run" refuses "bench embedding --shapes sd2-64: a step of SD2 does not run this layer" embedding --shapes sd2-64
"$program" bench layernorm --version all --shape 20,64 --runs 1 >"$work/lab"
check "bench --version exits with 0" [ $? = 0 ]
check "the last version, its error and its time" grep -qE '^  4 .* [0-9.]+e-[0-9]+ +[0-9.]+ .*%$' "$work/lab"
"$program" bench layernorm --version 4 --runs 1 >"$work/lab"
check "by default SD2's shape is timed" grep -q '^layernorm_forward, N,C = 8192,320$' "$work/lab"
"$program" bench adam --version 4 --check >"$work/lab"
check "bench --check does not time" grep -qE '^  4 .* [0-9.]+e-[0-9]+$' "$work/lab"
# torch_row TEXT SCRIPT: the lab's row of PyTorch, whose python3 is this shell script
torch_row() {
    mkdir -p "$work/bin" && printf '#!/bin/sh\necho "$@" >"%s"\n%s\n' "$work/asked" "$2" >"$work/bin/python3" && chmod +x "$work/bin/python3" &&
        LAB_TORCH=1 PATH=$work/bin:$PATH "$program" bench layernorm --version all --shape 20,64 --runs 1 >"$work/lab" && grep -qE -- "$1" "$work/lab"
}
check "the lab's row of PyTorch" torch_row '^  -  PyTorch 9\.9: fake +- +20\.00 +[0-9.]+ +[0-9.]+ .*%$' \
    'echo hello; echo "{\"name\": \"9.9: fake\", \"seconds\": 2e-5}"'
check "what the lab asks PyTorch for" grep -qE '/bench/torch_gpu.py --layer layernorm --function layernorm_forward --shape 20,64 --runs 1( --fp32)?$' "$work/asked"
check "Ctrl-C reaches PyTorch: its process ends by SIGINT" torch_row '^  -  PyTorch: bench/torch_gpu.py failed$' \
    'kill -INT $$; echo "{\"name\": \"9.9: fake\", \"seconds\": 2e-5}"'
check "the lab without PyTorch" torch_row '^  -  PyTorch: not installed$' 'echo "{\"error\": \"not installed\"}"'
check "the lab with a python3 that fails" torch_row '^  -  PyTorch: bench/torch_gpu.py failed$' 'echo "{\"seconds"; exit 3'
check "the lab without a GPU does not ask PyTorch" bash -c '"$1" bench layernorm --version all --shape 20,64 --runs 1 | grep -c PyTorch | grep -qx 0' - "$program"
LAB_TORCH=1 PATH=$work/nothing "$program" bench layernorm --version all --shape 20,64 --runs 1 >"$work/lab"
check "the lab without python3" grep -qE '^  -  PyTorch: not installed$' "$work/lab"
"$program" bench step --preset mini --batch 2 --runs 1 --json "$work/step.json" --write-config "$work/config.json" \
    >"$work/step"
check "bench step exits with 0" [ $? = 0 ]
check "the step's model" grep -q '^mini: 1.0 M parameters, batch 2, 16x16 latents, 16 tokens$' "$work/step"
check "the step's speed and memory" grep -qE '^step [0-9.]+ s .* of the roofline, peak memory' "$work/step"
check "the step's profile" grep -qE '^adam_update +update +1 ' "$work/step"
check "the step's JSON" grep -q '"peak_bytes"' "$work/step.json"
"$program" bench plan --preset mini --batch 2 --json "$work/mini.json" >/dev/null
check "plan and step agree on the memory of activations and gradients" \
    cmp <(grep arena_bytes "$work/mini.json" | head -n 1) <(grep arena_bytes "$work/step.json")
"$program" bench plan --preset sd2 --size 64 --json "$work/plan.json" >"$work/plan"
check "bench plan exits with 0" [ $? = 0 ]
check "Stable Diffusion 2's step: 2.41 TFLOP per sample" grep -qE '^sd2, batch 2, 64x64 latents: 86[56]\.[0-9] M .* 4\.[789][0-9] TFLOP' "$work/plan"
# Every function that the plan's step launches has a row of --shapes sd2-64.
of_step() {
    local missing
    missing=$(sed -n '/"step": \[/,/"vae": \[/s/.*"function": "\(.*\)",/\1/p' "$work/plan.json" | sort -u | awk '
        FNR == NR { if (match($0, /run_[a-z0-9_]+\(Bench/)) layer = substr($0, RSTART + 4, RLENGTH - 10)
                    if (match($0, /TIME\([a-z0-9_A-Z]+\(/)) of[substr($0, RSTART + 5, RLENGTH - 6)] = layer
                    if (match($0, /^    \{"[a-z0-9_]+", "/)) { split($0, parts, "\""); layer = parts[2] }
                    if (/"sd2-64"/) has[layer] = 1
                    next }
        { n++ } !has[of[$0]] { print $0 }
        END { if (n < 20) print "functions in the plan:", n }' bench/bench_kernels.c -)
    [ -z "$missing" ] || { echo "without a row: $missing"; false; }
}
check "SD2's step is in the table of --shapes sd2-64" of_step
check "the plan's launches" [ "$(grep -c '"function": "conv2d_forward"' "$work/plan.json")" -ge 20 ]
tensors() { # tensors FILE: the rows of its table
    awk '$1 == "tensor" { on = 1; next } / tensors; / { on = 0 } on && NF' "$1"
}
saved_part() { # saved_part FILE: names are unique, and the bytes add up to what the arena saves at most
    awk '{ sum += $4; seen[$1]++ } END { for (name in seen) if (seen[name] > 1) exit 1; printf "%d tensors; %d bytes are saved", NR, sum }' \
        <(tensors "$1") >"$work/sum" && grep -qF -- "$(cat "$work/sum")" "$1"
}
"$program" bench plan --preset mini --tensors --json "$work/tensors.json" >"$work/tensors"
check "bench plan --tensors exits with 0" [ $? = 0 ]
check "the saved tensors' names and bytes" saved_part "$work/tensors"
check "151 tensors, in the JSON too" [ "$(tensors "$work/tensors" | wc -l) $(grep -c '"backward_of"' "$work/tensors.json")" = "151 151" ]
check "a saved tensor and its lifetime" grep -qE '^down_blocks\.1\.attentions\.0\.transformer_blocks\.0\.attn1\.qkv +16x64x192 +(fp32|bf16) +[0-9]+ +forward +[0-9]+ +backward +[0-9]+ +down_blocks\.1\.resnets\.0\.norm1$' "$work/tensors"
timeout 20 "$program" bench plan --preset sd2 --size 64 --tensors >"$work/tensors"
check "Stable Diffusion 2's saved tensors, within seconds" saved_part "$work/tensors"
check "the skip that lives longest" grep -qE '^conv_in\.out +2x64x64x320 ' "$work/tensors"
"$program" bench plan --preset mini --recompute blocks --tensors >"$work/tensors"
check "what is recomputed is saved in backward" grep -qE '^mid_block\.resnets\.1\.conv1\.out .* backward +[0-9]+ +backward +[0-9]+' "$work/tensors"
check "tensors of what runs" refuses "--tensors needs bench plan" step --tensors
# What would be ignored is refused: no file that is not written, no size that is not measured.
check "a file of versions" refuses "--json needs a benchmark without --version" layernorm --version all --json "$work/versions.json"
check "the UNet's config of a layer" refuses "--write-config needs bench step" layernorm --write-config "$work/none.json"
check "the UNet's config of a plan" refuses "--write-config needs bench step" plan --write-config "$work/none.json"
check "runs of a plan" refuses "--runs needs what is measured" plan --runs 3
check "a shape of a step" refuses "--shape needs a layer" step --shape 1,2
check "a version of a plan" refuses "--version needs a layer" plan --version all
check "two tables" refuses "--shapes needs a layer or all" linear --shapes sd2-64 --shape 8,16,24
check "a batch of the mixed table" refuses "--batch needs bench step, bench plan or --shapes sd2-64" linear --batch 4
for option in "--preset mini" "--model nothing" "--size 8" "--recompute blocks"; do
    check "${option% *} of a layer" refuses "${option% *} needs bench step or bench plan" linear $option
done
check "the UNet's config" grep -q '"UNet2DConditionModel"' "$work/config.json"
check "a version beyond the last" refuses "--version 7: expected 1 to 6 or all" conv2d --version 7 --check
check "a layer without versions" refuses "expected conv2d, attention, groupnorm, groupnorm_backward, layernorm or adam" linear --version 1
check "nothing to check" refuses "--check needs --version" conv2d --check
check "unknown layer" refuses "expected all, step, plan or one of the layers linear" nothing
check "too few numbers" refuses "expected the numbers N,IC,OC of linear" linear --shape 8,16
check "a size of 0" refuses "expected the numbers N,IC,OC of linear" linear --shape 8,16,0
check "a shape that the kernel does not support" refuses "C to be a multiple of G" groupnorm --shape 1,4,10,4,0
check "a shape for all layers" refuses "--shape needs a layer" all --shape 1
check "unknown preset" refuses "--preset" step --preset huge
check "a missing model" refuses "unet/config.json" step --model "$work/nothing"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
