#include "tests/kernels/check.h"

typedef enum { MSE, L1_MSE, WEIGHTED, FOCAL, LOSSES } Kind; // sums over elements; Dice is apart
static const char *kind_names[] = {"mse", "l1_mse", "weighted_mse", "focal_mse"};
static const double mse_weight = 0.7, gamma_focal = 1.5;

static void run_loss(Kind kind, float *loss, floatX *dpred, const floatX *pred, const float *target,
                     const float *weight, float scale, int B, int n, int C) {
    switch (kind) {
    case MSE:
        mse_loss(loss, dpred, pred, target, scale, B, n, &check_dev);
        break;
    case L1_MSE:
        l1_mse_loss(loss, dpred, pred, target, (float)mse_weight, scale, B, n, &check_dev);
        break;
    case WEIGHTED:
        weighted_mse_loss(loss, dpred, pred, target, weight, scale, B, n, C, &check_dev);
        break;
    default:
        focal_mse_loss(loss, dpred, pred, target, (float)gamma_focal, scale, B, n, C, &check_dev);
        break;
    }
}

static void reference_loss(Kind kind, double *loss, double *dpred, const double *pred, const double *target,
                           const double *weight, double scale, int B, int n, int C) {
    switch (kind) {
    case MSE:
        reference_mse_loss(loss, dpred, pred, target, scale, B, n);
        break;
    case L1_MSE:
        reference_l1_mse_loss(loss, dpred, pred, target, mse_weight, scale, B, n);
        break;
    case WEIGHTED:
        reference_weighted_mse_loss(loss, dpred, pred, target, weight, scale, B, n, C);
        break;
    default:
        reference_focal_mse_loss(loss, dpred, pred, target, gamma_focal, scale, B, n, C);
        break;
    }
}

// error: the size of pred - target.
static void check_loss(Kind kind, int B, int n, int C, double error) {
    printf("  %s B %d n %d C %d error %g\n", kind_names[kind], B, n, C, error);
    size_t count = (size_t)B * n, cells = count / C;
    float scale = 0.4f / B, *values = xmalloc(count * sizeof *values);
    Tensor pred = tensor_random(count, 1, 1, false), deviation = tensor_random(count, error, 2, true);
    for (size_t i = 0; i < count; i++) { values[i] = (float)(pred.host[i] + deviation.host[i]); }
    Tensor target = tensor_of(values, count, true), weight = tensor_random(cells, 1, 3, true);
    for (size_t i = 0; i < cells; i++) { values[i] = fabsf((float)weight.host[i]); }
    tensor_set(&weight, values);
    Tensor loss = tensor_poisoned(B, true), alone = tensor_poisoned(B, true), dpred = tensor_poisoned(count, false);
    double *rl = found_in(&loss), *rd = found_in(&dpred);
    reference_loss(kind, rl, rd, pred.host, target.host, weight.host, scale, B, n, C);
    run_loss(kind, loss.f, dpred.x, pred.x, target.f, weight.f, scale, B, n, C);
    run_loss(kind, alone.f, NULL, pred.x, target.f, weight.f, scale, B, n, C);
    check_equal("no gradient", &loss, &alone);
    check_and_free("loss", &loss, rl, 1e-5);
    check_and_free("dpred", &dpred, rd, TOLERANCE_BACKWARD);
    Tensor *rest[] = {&pred, &deviation, &target, &weight, &alone};
    for (int i = 0; i < 5; i++) { tensor_free(rest[i]); }
    free(values);
}

static void test_losses(void **state) {
    (void)state;
    for (Kind kind = MSE; kind < LOSSES; kind++) {
        check_loss(kind, 1, 1, 1, 1);
        check_loss(kind, 3, 35, 5, 1);
        check_loss(kind, 16, 1024, 4, 0.3);
        check_loss(kind, 2, 16384, 4, 0.01);
        check_loss(kind, 1, 90003, 3, 2);
        check_loss(kind, 5, 4100, 4, 1e-3);
    }
}

// Prediction and target equal: no loss, no gradient, no NaN; a NaN in the prediction shows in its sample's loss only.
static void test_perfect_and_nan(void **state) {
    (void)state;
    enum { B = 2, N = 64, C = 4 };
    float values[B * N], zeros[B * N] = {0};
    for (int i = 0; i < B * N; i++) {
        values[i] = (float)(i % 17) - 8; // exact in bf16
    }
    for (Kind kind = MSE; kind < LOSSES; kind++) {
        Tensor pred = tensor_of(values, B * N, false), target = tensor_of(values, B * N, true);
        Tensor weight = tensor_of(zeros, B * N / C, true), loss = tensor_poisoned(B, true);
        Tensor dpred = tensor_poisoned(B * N, false);
        double zero[B * N] = {0};
        run_loss(kind, loss.f, dpred.x, pred.x, target.f, weight.f, 1, B, N, C);
        check_tensor(kind_names[kind], &loss, zero, 0);
        check_tensor("dpred", &dpred, zero, 0);
        values[N + 3] = NAN;
        tensor_set(&pred, values);
        values[N + 3] = target.host[N + 3];
        for (int i = 0; i < B * N / C; i++) { zeros[i] = 1; }
        tensor_set(&weight, zeros);
        memset(zeros, 0, sizeof zeros);
        run_loss(kind, loss.f, dpred.x, pred.x, target.f, weight.f, 1, B, N, C);
        double *l = tensor_values(&loss), *d = tensor_values(&dpred);
        assert_true(l[0] == 0 && isnan(l[1]) && isnan(d[N + 3]));
        free(l);
        free(d);
        Tensor *all[] = {&pred, &target, &weight, &loss, &dpred};
        for (int i = 0; i < 5; i++) { tensor_free(all[i]); }
    }
}

// gamma = 0 is the plain MSE.
static void test_focal_without_focus(void **state) {
    (void)state;
    enum { B = 3, N = 400 };
    Tensor pred = tensor_random(B * N, 1, 1, false), target = tensor_random(B * N, 1, 2, true);
    Tensor a = tensor_poisoned(B, true), b = tensor_poisoned(B, true);
    Tensor da = tensor_poisoned(B * N, false), db = tensor_poisoned(B * N, false);
    focal_mse_loss(a.f, da.x, pred.x, target.f, 0, 1, B, N, 4, &check_dev);
    mse_loss(b.f, db.x, pred.x, target.f, 1, B, N, &check_dev);
    double *loss = tensor_values(&b), *gradient = tensor_values(&db);
    check_and_free("loss", &a, loss, 1e-6);
    check_and_free("dpred", &da, gradient, TOLERANCE_FORWARD);
    Tensor *rest[] = {&pred, &target, &b, &db};
    for (int i = 0; i < 4; i++) { tensor_free(rest[i]); }
}

static const float dice_color[3] = {0.1f, 1, -0.6f};

// The target is the prediction plus an error; a share of both pictures' pixels has the very colour of the mask.
static void check_dice(int B, int pixels, double error) {
    printf("  dice B %d pixels %d error %g\n", B, pixels, error);
    int n = 3 * pixels;
    size_t count = (size_t)B * n;
    float scale = 0.4f / B, *values = xmalloc(count * sizeof *values);
    Tensor pred = tensor_random(count, 0.8, 1, false), other = tensor_random(count, error, 2, true);
    for (size_t i = 0; i < count; i++) { values[i] = (i / 3 + 1) % 4 ? (float)pred.host[i] : dice_color[i % 3]; }
    tensor_set(&pred, values);
    for (size_t i = 0; i < count; i++) {
        values[i] = (i / 3 + 1) % 5 ? (float)(pred.host[i] + other.host[i]) : dice_color[i % 3];
    }
    Tensor target = tensor_of(values, count, true), loss = tensor_poisoned(B, true), alone = tensor_poisoned(B, true);
    Tensor dpred = tensor_poisoned(count, false);
    double *rl = found_in(&loss), *rd = found_in(&dpred);
    reference_dice_loss(rl, rd, pred.host, target.host, dice_color, scale, B, n);
    dice_loss(loss.f, dpred.x, pred.x, target.f, dice_color, scale, B, n, &check_dev);
    dice_loss(alone.f, NULL, pred.x, target.f, dice_color, scale, B, n, &check_dev);
    check_equal("no gradient", &loss, &alone);
    check_and_free("loss", &loss, rl, 1e-5);
    check_and_free("dpred", &dpred, rd, TOLERANCE_BACKWARD);
    Tensor *rest[] = {&pred, &other, &target, &alone};
    for (int i = 0; i < 4; i++) { tensor_free(rest[i]); }
    free(values);
}

static void test_dice(void **state) {
    (void)state;
    check_dice(1, 1, 1);
    check_dice(3, 37, 0.5);
    check_dice(2, 1000, 1);
    check_dice(2, 4096, 0.3);
    check_dice(1, 40003, 1);
}

// The same mask in both: no loss. Nothing in both: none either. All against nothing: nearly 1.
static void test_dice_ends(void **state) {
    (void)state;
    enum { PIXELS = 600 };
    float black[3 * PIXELS], white[3 * PIXELS];
    static const float color[3] = {1, 1, 1};
    for (int i = 0; i < 3 * PIXELS; i++) { black[i] = -1, white[i] = 1; }
    const float *cases[3][2] = {{white, white}, {black, black}, {white, black}};
    for (int k = 0; k < 3; k++) {
        Tensor pred = tensor_of(cases[k][0], 3 * PIXELS, false), target = tensor_of(cases[k][1], 3 * PIXELS, true);
        Tensor loss = tensor_poisoned(1, true);
        dice_loss(loss.f, NULL, pred.x, target.f, color, 1, 1, 3 * PIXELS, &check_dev);
        double expected[] = {0, 0, 1 - 1.0 / (PIXELS + 1)};
        check_tensor("loss", &loss, expected + k, 1e-6);
        Tensor *all[] = {&pred, &target, &loss};
        for (int i = 0; i < 3; i++) { tensor_free(all[i]); }
    }
}

static void test_threads(void **state) {
    (void)state;
    enum { B = 3, N = 20000 };
    Tensor pred = tensor_random(B * N, 1, 1, false), target = tensor_random(B * N, 1, 2, true);
    Tensor weight = tensor_random(B * N / 4, 1, 3, true);
    for (Kind kind = MSE; kind < LOSSES; kind++) {
        Tensor a = tensor_poisoned(B, true), b = tensor_poisoned(B, true);
        check_threads(1);
        run_loss(kind, a.f, NULL, pred.x, target.f, weight.f, 1, B, N, 4);
        check_threads(3);
        run_loss(kind, b.f, NULL, pred.x, target.f, weight.f, 1, B, N, 4);
        check_equal(kind_names[kind], &a, &b);
        tensor_free(&a);
        tensor_free(&b);
    }
    tensor_free(&pred);
    tensor_free(&target);
    tensor_free(&weight);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_perfect_and_nan),
        cmocka_unit_test(test_focal_without_focus),
        cmocka_unit_test(test_dice),
        cmocka_unit_test(test_dice_ends),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, check_open, check_close);
}
