#!/usr/bin/env bash
# Nothing is lost: a training run is ended again and again, by SIGKILL at a chance call that touches files or by such a
# call that fails, and goes on with --resume. After each end all checkpoints and the published model are whole, the newest
# checkpoint is not older than before, and at last the weights have the bits of a run without any of this.
#     tests/cli/test_kills.sh [KILLS [FAULTS]]    SEED=N repeats a run
source "$(dirname "$0")/common.sh"
kills=${1:-10} faults=${2:-40}
RANDOM=${SEED:=$RANDOM}

# Counts the calls. Call CALL fails with ERROR, or kills the process if ERROR is "kill".
cat >fails.c <<'C'
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int calls;
static int fails(const char *name) {
    const char *call = getenv("CALL"), *error = getenv("ERROR");
    int number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (!call || number != atoi(call)) { return 0; }
    int log = creat(getenv("FAILED"), 0666);
    dprintf(log, "%s %s\n", name, error);
    close(log);
    if (*error == 'k') { kill(getpid(), SIGKILL); }
    errno = atoi(error);
    return 1;
}
static FILE *mark(FILE *stream) {
    stream->_flags |= 0x20; // ferror()
    return stream;
}
__attribute__((destructor)) static void count(void) {
    FILE *(*open_)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    FILE *file = getenv("COUNT") ? open_(getenv("COUNT"), "w") : NULL;
    if (file) { fprintf(file, "%d\n", calls); }
}
#define NEXT(result, name, ...) ((result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))
#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = va_arg(more, mode_t);                                                                            \
        va_end(more);                                                                                                  \
        return fails(#name) ? -1 : NEXT(int, name, const char *, int, ...)(path, flags, mode);                         \
    }
OPEN(open)
OPEN(open64)
#define FOPEN(name)                                                                                                    \
    FILE *name(const char *path, const char *mode) {                                                                   \
        return fails(#name) ? NULL : NEXT(FILE *, name, const char *, const char *)(path, mode);                       \
    }
FOPEN(fopen)
FOPEN(fopen64)
FILE *fdopen(int fd, const char *mode) { return fails("fdopen") ? NULL : NEXT(FILE *, fdopen, int, const char *)(fd, mode); }
size_t fwrite(const void *bytes, size_t size, size_t count, FILE *f) {
    size_t half = count * size / 2;
    if (!fails("fwrite")) { return NEXT(size_t, fwrite, const void *, size_t, size_t, FILE *)(bytes, size, count, f); }
    return NEXT(size_t, fwrite, const void *, size_t, size_t, FILE *)(bytes, 1, half, mark(f)) / size;
}
size_t fread(void *bytes, size_t size, size_t count, FILE *f) {
    return fails("fread") ? (mark(f), 0) : NEXT(size_t, fread, void *, size_t, size_t, FILE *)(bytes, size, count, f);
}
int fflush(FILE *f) {
    if (!f || f == stdout || f == stderr || !fails("fflush")) { return NEXT(int, fflush, FILE *)(f); }
    return mark(f), EOF;
}
int fclose(FILE *f) {
    int failed = fails("fclose"), reason = errno, code = NEXT(int, fclose, FILE *)(f);
    return failed ? (errno = reason, EOF) : code;
}
int fsync(int fd) { return fails("fsync") ? -1 : NEXT(int, fsync, int)(fd); }
int ftruncate(int fd, off_t size) { return fails("ftruncate") ? -1 : NEXT(int, ftruncate, int, off_t)(fd, size); }
int truncate(const char *path, off_t size) { return fails("truncate") ? -1 : NEXT(int, truncate, const char *, off_t)(path, size); }
int mkdir(const char *path, mode_t mode) { return fails("mkdir") ? -1 : NEXT(int, mkdir, const char *, mode_t)(path, mode); }
int rename(const char *from, const char *to) { return fails("rename") ? -1 : NEXT(int, rename, const char *, const char *)(from, to); }
int link(const char *from, const char *to) { return fails("link") ? -1 : NEXT(int, link, const char *, const char *)(from, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return fails("renameat2") ? -1 : NEXT(int, renameat2, int, const char *, int, const char *, unsigned)(a, from, b, to, flags);
}
C
"${CC:-cc}" -w -D_GNU_SOURCE -shared -fPIC -o fails.so fails.c -ldl || { echo "skipped: no compiler"; finish; }
prepare
train=(train --model model --shards latents --train-batch-size 1 --gradient-accumulation-steps 1 --validate-every 0
    --no-roofline --checkpoint-every 1 --checkpoints-total-limit 2 --lr 1e-3)

newest() { # newest OUT: the step of the newest checkpoint, 0 without one
    local last
    last=$(cd "$1" 2>/dev/null && printf '%s\n' checkpoint-?????? | sort | tail -n 1)
    [[ $last == checkpoint-??????* ]] && [ -d "$1/$last" ] && echo $((10#${last#checkpoint-})) || echo 0
}
# damage OUT: prints what is not whole. The files of the model are those of a checkpoint that was whole.
damage() {
    local folder sum
    for folder in "$1"/checkpoint-??????; do
        [ -d "$folder" ] || continue
        (cd "$folder" && sha256sum --quiet --check trainer/sha256.txt 2>&1 | head -n 3 | sed "s|^|$folder: |")
        [ -s "$folder/trainer/state.json" ] || echo "$folder: no state"
        grep -h '' "$folder/trainer/sha256.txt"
    done >.found
    grep -v '^[0-9a-f]\{64\} ' .found
    grep '^[0-9a-f]\{64\} ' .found | cut -c 1-64 >>.sums
    [ -d "$1/model" ] || return
    ls "$1"/model/{model_index.json,cocogold.json,unet/config.json,vae/config.json} >/dev/null 2>.missing || cat .missing
    for sum in $(sha256sum "$1"/model/unet*/*.safetensors | cut -c 1-64); do
        grep -q "$sum" .sums || echo "$1/model: weights of no checkpoint"
    done
}

# fail_once ARGUMENTS...: runs the program, of whose $most calls one fails with error $i of $errors. Sets $code, and $said
# to its number of sentences; counts in $ended.
fail_once() {
    rm -f failed
    LD_PRELOAD=$work/fails.so FAILED=$work/failed CALL=$((RANDOM % most + 1)) ERROR=${errors[i % ${#errors[@]}]} \
        "$cocogold" "$@" >/dev/null 2>said.log
    code=$?
    said=$(grep '^cocogold: ' said.log | grep -vc '^cocogold: warning: ')
    [ -e failed ] && ended=$((ended + 1))
}

# campaign NAME COUNT ERROR...: ends a run so often, with each error in turn.
campaign() {
    local name=$1 count=$2 errors=("${@:3}") out=$1 i before after code most bad="" ended=0 passed_on=0 lost=0 said
    "$cocogold" "${train[@]}" --max-train-steps 1 --out "$out" >/dev/null 2>&1
    LD_PRELOAD=$work/fails.so COUNT=$work/count "$cocogold" "${train[@]}" --resume --max-train-steps 3 --out "$out" >/dev/null 2>&1
    most=$(cat count)
    : >.sums
    damage "$out" >/dev/null
    for ((i = 0; i < count; i++)); do
        before=$(newest "$out")
        fail_once "${train[@]}" --resume --max-train-steps $((before + 2)) --out "$out"
        after=$(newest "$out")
        case $code-$said in
            137-0) ;; # killed
            1-1) [ "$name" = kills ] && bad+="$i: exit 1 after $(cat failed): $(cat said.log)"$'\n' ;;
            0-0) passed_on=$((passed_on + 1)); [ "$after" = $((before + 2)) ] || bad+="$i: exit 0 at step $after"$'\n' ;;
            *) bad+="$i: exit $code after $(cat failed): $(cat said.log)"$'\n' ;;
        esac
        [ "$after" -ge "$before" ] || { lost=$((lost + 1)); bad+="$i: step $before is lost after $(cat failed): $after"$'\n'; }
        said=$(damage "$out")
        [ -z "$said" ] || { lost=$((lost + 1)); bad+="$i: after $(cat failed): $said"$'\n'; }
        if [ "$name" = faults ] && [ -n "$(find "$out" -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*')" ]; then
            bad+="$i: after $(cat failed): left $(find "$out" -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*' | head -n 3 | xargs)"$'\n'
        fi
    done
    [ -z "$bad" ]
    result $? "$ended $name of $count (seed $SEED, $most calls in two steps; $passed_on runs went on), $lost lost or half-written" "$bad"
    check "$name: the run goes on" "$cocogold" "${train[@]}" --resume --max-train-steps "$(($(newest "$out") + 1))" --out "$out"
    check "$name: nothing is left" [ -z "$(find "$out" -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*' -o -name .lock)" ]
    check "$name: a run without them to step $(newest "$out")" "$cocogold" "${train[@]}" --checkpoint-every 0 \
        --max-train-steps "$(newest "$out")" --out "$out-not"
    check "$name: the same bits" cmp "$out"/model/unet/*.safetensors "$out-not"/model/unet/*.safetensors
    check "$name: one line for each step" [ "$(grep -o '"step":[0-9]*' "$out/log.jsonl" | sort -u | wc -l)" = "$(newest "$out")" ]
}
# encodes NAME COUNT ERROR...: ends an encoding so often, and runs it again.
encodes() {
    local name=$1 count=$2 errors=("${@:3}") i code most said bad="" ended=0
    local encode=(encode --model model --data data --split train --targets overlay,mask --min-side 1 --shard-size 8)
    rm -rf whole
    LD_PRELOAD=$work/fails.so COUNT=$work/count "$cocogold" "${encode[@]}" --out whole >/dev/null 2>&1
    most=$(cat count)
    for ((i = 0; i < count; i++)); do
        rm -rf again
        fail_once "${encode[@]}" --out again
        [[ $code-$said == @(137-0|1-1|0-0) ]] || bad+="$i: exit $code after $(cat failed): $(cat said.log)"$'\n'
        if [ $code != 137 ] && [ -n "$(find . -name '*.cocogold-tmp-*')" ]; then
            bad+="$i: after $(cat failed): left $(find . -name '*.cocogold-tmp-*' | xargs)"$'\n'
        fi
        "$cocogold" "${encode[@]}" --out again >said.log 2>&1 || bad+="$i: again, after $(cat failed): $(tail -n 1 said.log)"$'\n'
        said=$(diff -rq whole again) || bad+="$i: after $(cat failed): $said"$'\n'
    done
    [ -z "$bad" ]
    result $? "encode: $ended $name of $count (seed $SEED, $most calls), run again: the files of a run without" "$bad"
}
encodes kills "$kills" kill 2>/dev/null
encodes faults "$kills" 28 5 30 122 2>/dev/null
campaign kills "$kills" kill 2>/dev/null
campaign faults "$faults" 28 5 30 122 2>/dev/null # ENOSPC, EIO, EROFS, EDQUOT
finish
