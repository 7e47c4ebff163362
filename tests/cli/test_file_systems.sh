#!/usr/bin/env bash
# File systems that lack something: locks (NFS, Lustre), fsync of folders (FUSE, SMB) and the exchange of two names (NFS).
# A library in front of libc's says so, as those file systems do. $REFUSED: no folder gets this name by a plain rename.
source "$(dirname "$0")/common.sh"
cat >lacks.c <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
int flock(int fd, int operation) {
    (void)fd, (void)operation;
    errno = ENOLCK;
    return -1;
}
int fcntl(int fd, int command, ...) {
    va_list more;
    va_start(more, command);
    void *value = va_arg(more, void *);
    va_end(more);
    if (command == F_SETLK || command == F_SETLKW) {
        errno = ENOLCK;
        return -1;
    }
    int (*next)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl");
    return next(fd, command, value);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    (void)a, (void)from, (void)b, (void)to, (void)flags;
    errno = EINVAL;
    return -1;
}
int rename(const char *from, const char *to) {
    const char *refused = getenv("REFUSED");
    int (*next)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    if (!refused || strcmp(to, refused) != 0 || !strstr(from, ".cocogold-tmp-")) { return next(from, to); }
    errno = EIO;
    return -1;
}
int fsync(int fd) {
    struct stat s;
    if (fstat(fd, &s) != 0 || !S_ISDIR(s.st_mode)) { return 0; }
    errno = EINVAL;
    return -1;
}
C
"${CC:-cc}" -shared -fPIC -o lacks.so lacks.c -ldl || { echo "skipped: no compiler"; finish; }
export LD_PRELOAD=$work/lacks.so
prepare
check "synth, init and encode work" [ -f latents/train-00000.h5 ]
check "train works" "$cocogold" train --model model --shards latents --out run --max-train-steps 1 --train-batch-size 2 \
    --gradient-accumulation-steps 1 --validate-every 0 --no-roofline
check "the model is there" [ -f run/model/model_index.json ]
check "eval works" "$cocogold" eval --model run/model --data data --limit 4 --steps 1 --bootstrap 0 --out eval
check "init --force works" "$cocogold" init --preset mini --force --seed 1 run/model
check "it replaced the model" bash -c '! cmp -s run/model/unet/*.safetensors model/unet/*.safetensors'
cp -r run/model before
export REFUSED=run/model
dies "a folder that gets no name" "cannot be renamed to run/model: Input/output error" init --preset mini --force --seed 2 run/model
check "the old one is back" diff -r before run/model
check "nothing else" [ -z "$(find . -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*' -o -name .lock)" ]
finish
