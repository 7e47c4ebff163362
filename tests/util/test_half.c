// util/half.h: every half and bfloat16, and the floats around every border of rounding. Against numpy:
// tests/reference/test_half.py.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "util/half.h"

// From the definition: sign, 5 bits of exponent with bias 15, 10 of mantissa.
static double half_by_definition(uint32_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double value = exponent == 31  ? (mantissa ? (double)NAN : (double)INFINITY)
                   : exponent == 0 ? ldexp(mantissa, -24)
                                   : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -value : value;
}

static void test_half_to_float(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint32_t found = float_bits(half_to_float((uint16_t)h));
        if ((h & 0x7fff) > 0x7c00) { // sign and mantissa stay
            assert_int_equal(found, (h & 0x8000) << 16 | 0x7f800000 | (h & 1023) << 13);
        } else {
            assert_int_equal(found, float_bits((float)half_by_definition(h)));
        }
        assert_int_equal(float_to_half(bits_float(found)), h);
    }
    print_message("half to float and back: all 65536 exact\n");
}

// x lies between half h and the next larger one in size: which of the two it becomes, with both signs.
static void expect(float x, uint32_t half) {
    assert_int_equal(float_to_half(x), half);
    assert_int_equal(float_to_half(-x), half | 0x8000);
}

// The nearest of all halves; of two equally near ones the even one.
static void test_float_to_half(void **state) {
    (void)state;
    long checked = 0;
    for (uint32_t h = 0; h < 0x7c00; h++) { // between each half and the next (the last: to infinity)
        double low = half_by_definition(h), high = h + 1 == 0x7c00 ? 65536 : half_by_definition(h + 1);
        double middle = (low + high) / 2;
        float exact = (float)middle; // halfway needs one bit more, which a float has
        assert_true((double)exact == middle);
        expect(exact, h + (h & 1));
        expect(nextafterf(exact, 0), h);
        expect(nextafterf(exact, INFINITY), h + 1);
        expect(nextafterf((float)low, INFINITY), h);
        expect(nextafterf((float)high, 0), h + 1);
        checked += 10;
    }
    const float infinite[] = {65520, 65536, 3e38f, INFINITY}, zero[] = {0, 0x1p-149f, 1e-40f, 0x1p-126f, 0x1p-25f};
    for (int i = 0; i < 4; i++) { expect(infinite[i], 0x7c00); }
    for (int i = 0; i < 5; i++) { expect(zero[i], 0); }
    print_message("float to half: %ld values around every border of rounding\n", checked);
}

// numpy's rule: the mantissa is cut, and where nothing is left its last bit is set.
static void test_nan(void **state) {
    (void)state;
    static const uint32_t cases[][2] = {
        {0x7f800001, 0x7c01}, {0x7f801fff, 0x7c01}, {0x7f802000, 0x7c01}, {0x7f804000, 0x7c02}, {0x7fa00000, 0x7d00},
        {0x7fc00000, 0x7e00}, {0x7fc00001, 0x7e00}, {0x7fffffff, 0x7fff}, {0xff800001, 0xfc01}, {0xffc00000, 0xfe00},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(float_to_half(bits_float(cases[i][0])), cases[i][1]);
    }
}

static void test_bfloat16(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = bfloat16_to_float((uint16_t)h);
        assert_int_equal(float_bits(x), h << 16);
        if (isnan(x)) {
            assert_int_equal(float_to_bfloat16(x), h | 0x40);
            continue;
        }
        assert_int_equal(float_to_bfloat16(x), h);
        if ((h & 0x7fff) >= 0x7f80) { continue; }
        assert_int_equal(float_to_bfloat16(bits_float(h << 16 | 0x7fff)), h);
        assert_int_equal(float_to_bfloat16(bits_float(h << 16 | 0x8000)), h + (h & 1));
        assert_int_equal(float_to_bfloat16(bits_float(h << 16 | 0x8001)), h + 1);
    }
    assert_int_equal(float_to_bfloat16(bits_float(0x7f800001)), 0x7fc0); // not rounded to infinity
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_to_float),
        cmocka_unit_test(test_float_to_half),
        cmocka_unit_test(test_nan),
        cmocka_unit_test(test_bfloat16),
    };
    return cmocka_run_group_tests_name("util/half", tests, NULL, NULL);
}
