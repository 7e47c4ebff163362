// What tests/reference/test_half.py compares with numpy: stdin to stdout, raw values.
//   half to_float     uint16 bits of halves to float32
//   half to_half      float32 to uint16
#include "util/error.h"
#include "util/half.h"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    bool to_float = argc == 2 && !strcmp(argv[1], "to_float");
    if (!to_float && !(argc == 2 && !strcmp(argv[1], "to_half"))) { die("expected to_float or to_half"); }
    enum { N = 4096 };
    uint16_t half[N];
    float wide[N];
    size_t from = to_float ? sizeof *half : sizeof *wide, to = to_float ? sizeof *wide : sizeof *half;
    for (size_t n; (n = fread(to_float ? (void *)half : wide, from, N, stdin)) > 0;) {
        for (size_t i = 0; i < n && to_float; i++) { wide[i] = half_to_float(half[i]); }
        for (size_t i = 0; i < n && !to_float; i++) { half[i] = float_to_half(wide[i]); }
        if (fwrite(to_float ? (void *)wide : half, to, n, stdout) != n) { die("stdout cannot be written"); }
    }
    return 0;
}
