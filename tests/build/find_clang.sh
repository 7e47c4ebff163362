#!/usr/bin/env bash
# find_clang.sh SANITIZERS: prints the name of an installed clang (14 or newer) that can link these ("fuzzer,address",
# "thread") and OpenMP; fails if there is none.
entry='int main(void) { return 0; }'
[[ $1 != *fuzzer* ]] || entry='int LLVMFuzzerTestOneInput(const char *p, long n) { return n && *p; }'
for compiler in clang clang-{25..14}; do
    command -v "$compiler" >/dev/null && printf '#include <omp.h>\n%s\n' "$entry" |
        "$compiler" "-fsanitize=$1" -fopenmp -x c - -o /dev/null 2>/dev/null && echo "$compiler" && exit
done
exit 1
