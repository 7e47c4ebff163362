#include "eval/extraction.h"
#include <math.h>
#include <stddef.h>

const char *const mask_method_names[] = {"whiteness", "compare", "luminance", NULL};

// Initial values; `eval --tune-on` chooses tolerance and changed on a training split.
MaskRule mask_rule_default(MaskMethod method) {
    MaskRule rule = {method, {1, 1, 1}, 1, 0.15f, 0.05f, true};
    if (method == MASK_COMPARE) { rule.tolerance = 0.4f; }
    if (method == MASK_LUMINANCE) { rule.tolerance = 0.5f; }
    return rule;
}

MaskRule mask_rule(MaskMethod method, const int color[3], double alpha) {
    MaskRule rule = mask_rule_default(method);
    for (int c = 0; c < 3; c++) { rule.color[c] = (float)color[c] / 255; }
    rule.alpha = (float)alpha;
    return rule;
}

static float distance(const float a[3], const float b[3]) {
    return fmaxf(fabsf(a[0] - b[0]), fmaxf(fabsf(a[1] - b[1]), fabsf(a[2] - b[2])));
}

static float distance_to_paint(const float p[3], const float in[3], const MaskRule *rule) {
    float painted[3];
    for (int c = 0; c < 3; c++) { painted[c] = rule->alpha * rule->color[c] + (1 - rule->alpha) * in[c]; }
    return distance(p, painted);
}

static bool is_painted(const float p[3], const float in[3], const MaskRule *rule) {
    float to_paint = distance_to_paint(p, in, rule), to_input = distance(p, in);
    return to_paint <= rule->tolerance && to_input >= rule->changed && to_paint < to_input;
}

void mask_extract(uint8_t *mask, const float *prediction, const float *input, int H, int W, const MaskRule *rule) {
    for (int i = 0; i < H * W; i++) {
        const float *p = prediction + (size_t)i * 3;
        if (rule->method == MASK_COMPARE) {
            mask[i] = is_painted(p, input + (size_t)i * 3, rule);
        } else if (rule->method == MASK_WHITENESS) {
            mask[i] = distance(p, rule->color) <= rule->tolerance;
        } else {
            mask[i] = (p[0] + p[1] + p[2]) / 3 >= 1 - rule->tolerance;
        }
    }
    if (rule->opening) { mask_opening(mask, H, W); }
}

static float painted_share(const float p[3], const float in[3], const MaskRule *rule) {
    float to_paint = distance_to_paint(p, in, rule), to_input = distance(p, in);
    return to_input > 0 ? to_input / (to_input + to_paint) : 0;
}

void mask_certainty(float *certainty, const float *prediction, const float *input, int H, int W, const MaskRule *rule) {
    for (size_t i = 0; i < (size_t)H * (size_t)W; i++) {
        const float *p = prediction + i * 3;
        certainty[i] = rule->method == MASK_COMPARE     ? painted_share(p, input + i * 3, rule)
                       : rule->method == MASK_WHITENESS ? 1 - distance(p, rule->color)
                                                        : (p[0] + p[1] + p[2]) / 3;
    }
}

// out[x] = minimum (or maximum) of in[x - 1], in[x], in[x + 1]; n values with the given stride, in place.
static void window3(uint8_t *values, int n, size_t stride, bool largest) {
    uint8_t before = values[0];
    for (int i = 0; i < n; i++) {
        uint8_t here = values[i * stride], after = i + 1 < n ? values[(i + 1) * stride] : here;
        values[i * stride] = largest ? before | here | after : before & here & after;
        before = here;
    }
}

// A 3x3 square separates into a row of three and a column of three.
static void window3x3(uint8_t *mask, int H, int W, bool largest) {
    for (int y = 0; y < H; y++) { window3(mask + (size_t)y * W, W, 1, largest); }
    for (int x = 0; x < W; x++) { window3(mask + x, H, (size_t)W, largest); }
}

void mask_opening(uint8_t *mask, int H, int W) {
    window3x3(mask, H, W, false);
    window3x3(mask, H, W, true);
}
