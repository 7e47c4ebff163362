#!/usr/bin/env bash
# Breaks kernels on purpose; the emulated tests must notice.
#     tests/emu/test_mutations.sh         six mutants (make test-all)
#     tests/emu/test_mutations.sh all     every barrier and every wait of every kernel, and the list below
#     tests/emu/test_mutations.sh WORD    those of the list below whose line has this word
#     tests/emu/test_mutations.sh FILE    the mutants of one file, e.g. kernels/conv2d_tiles.cuh
# A mutant counts as noticed if a test fails, or if its bits depend on the order of threads.
set -u
cd "$(dirname "$0")/../.."
source_folder=$PWD
which=${1:-short}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
make --no-print-directory BACKEND=emu PRECISION=bf16 $(basename -s .c tests/kernels/test_*.c | sed 's|^|build/emu-bf16/tests/kernels/|') \
    >/dev/null || { echo "0 passed, 1 failed"; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/cocogold-mutants-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/build"
cp -a Makefile setup.sh kernels util model data eval train bench tests cocogold.c "$work/" 2>/dev/null
cp -a build/emu-bf16 build/host-bf16 "$work/build/"
[ -e .cuda ] && ln -s "$source_folder/.cuda" "$work/.cuda"
passed=0 failed=0

tests_of() { # the test programs of a file
    case $1 in
    kernels/conv2d_*.cuh) echo test_conv2d ;;
    kernels/attention_*.cuh) echo test_attention ;;
    kernels/cuda_common.cuh) echo test_linear test_groupnorm test_layernorm ;;
    kernels/folds.cu) echo test_linear test_folds ;;
    kernels/elementwise.cuh) echo test_activation test_optimizer ;;
    *) echo "test_$(basename "$1" .cu)" ;;
    esac
}

# noticed_by TEST: prints how the test program notices the mutant, or nothing.
noticed_by() {
    local order
    rm -f "$work"/bits.*
    for order in ascending descending random:7; do
        EMU_ORDER=$order EMU_BITS=$work/bits.$order timeout 300 "$work/build/emu-bf16/tests/kernels/$1" \
            >"$work/log" 2>&1 || { echo "$1 fails: $(grep -m 1 -E '^emu:|^\[  FAILED' "$work/log")" && return; }
        cmp -s "$work/bits.ascending" "$work/bits.$order" || { echo "$1 gives different bits" && return; }
    done
}

# mutant FILE NAME PERL: PERL edits the text of the file in $_
mutant() {
    local file=$1 name=$2 by= test
    cp -p "$source_folder/$file" "$work/$file"
    perl -0pi -e "$3" "$work/$file"
    if cmp -s "$source_folder/$file" "$work/$file"; then
        failed=$((failed + 1))
        echo "FAILED  $file: $name: does not apply to the source"
        return
    fi
    touch "$work/$file"
    for test in $(tests_of "$file"); do
        if ! make --no-print-directory -C "$work" BACKEND=emu PRECISION=bf16 build/emu-bf16/tests/kernels/$test >"$work/make.log" 2>&1; then
            by="does not compile: $(grep -m 1 error "$work/make.log")"
            failed=$((failed + 1))
            break
        fi
        by=$(noticed_by "$test")
        [ -n "$by" ] && break
    done
    if [ -n "$by" ]; then
        passed=$((passed + 1))
        echo "ok      $file: $name: $by"
    else
        failed=$((failed + 1))
        echo "FAILED  $file: $name: no test notices it"
    fi
    cp -p "$source_folder/$file" "$work/$file"
    touch "$work/$file"
}

# drop FILE N PATTERN: removes the N-th match
drop() { mutant "$1" "without ${3//\\/} number $2" "my \$n = 0; s/($3);/++\$n == $2 ? ';' : \"\$1;\"/ge"; }
barrier='__syncthreads\(\)' wait='cp_async_wait<[^>]*>\(\)'

# FILE | name | PERL. Biases, terms of gradients, residuals, limits.
listed=(
    'kernels/linear.cu|the bias is left out|s/\.bias = bias != NULL/.bias = false/'
    'kernels/linear.cu|the residual of dinp is left out|s/dresidual \? 1 : 0, inputs/0, inputs/'
    'kernels/linear.cu|dweight does not add up|s/dweight, NULL, 1, beta/dweight, NULL, 1, 0/'
    'kernels/folds.cu|a limit of columns is left out|s/thread < FOLD_X && c < fold\.C/thread < FOLD_X/'
    'kernels/folds.cu|one row is not folded|s/row < fold\.rows && c/row + 1 < fold.rows && c/'
    'kernels/folds.cu|a full table is not folded|s/ \|\| f->table\.count == TABLE//'
    'kernels/folds.cu|a block takes the fold after its own|s/first_block <= \(int\)blockIdx\.x/first_block <= (int)blockIdx.x + 1/'
    'kernels/conv2d.cu|four columns at a time of a sample bias that is not aligned|s/in_fours\(sample_bias, stride\)/true/'
    'kernels/loss.cu|the gradient without its factor|s/return factor \* d;/return d + 0 * factor;/'
    'kernels/optimizer.cu|no bias correction of the second moment|s/1 \/ sqrtf\(s->bias2\)/1/'
    'kernels/optimizer.cu|no weight decay|s/step \+ k\.weight_decay \* p/step/'
    'kernels/layernorm.cu|rows are not divided by their deviation|s/- correction\) \* s \* w/- correction) * w/'
)

run_listed() { # run_listed PATTERN: the mutants whose line matches
    local line file rest
    for line in "${listed[@]}"; do
        [[ $line == *"$1"* ]] || continue
        file=${line%%|*} rest=${line#*|}
        mutant "$file" "${rest%%|*}" "${rest#*|}"
    done
}

run_dropped() { # every barrier and wait of a file
    local pattern n
    for pattern in "$barrier" "$wait"; do
        for n in $(seq "$(perl -0ne "my @m = /$pattern;/g; print scalar @m" "$1")"); do drop "$1" "$n" "$pattern"; done
    done
}

case $which in
short)
    run_listed 'the bias is left out'
    run_listed 'the residual of dinp'
    run_listed 'a limit of columns'
    run_listed 'the gradient without its factor'
    drop kernels/groupnorm.cu 1 "$barrier"
    drop kernels/conv2d_tiles.cuh 1 "$wait"
    ;;
all)
    run_listed ''
    for file in kernels/*.cu kernels/*.cuh; do run_dropped "$file"; done
    ;;
*)
    run_listed "$which"
    [ ! -f "$which" ] || run_dropped "$which"
    ;;
esac
echo "$passed passed, $failed failed"
[ $failed = 0 ]
