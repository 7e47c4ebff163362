// Charts and contact sheets: the picture's pixels; pages are tested in a browser (tests/reference/test_report.py).
#include "eval/report/chart.h"
#include "data/draw.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int count_color(const Image *image, int r, int g, int b) {
    int count = 0;
    for (int i = 0; i < image->width * image->height; i++) {
        const uint8_t *p = image->pixels + 3 * i;
        count += abs(p[0] - r) <= 2 && abs(p[1] - g) <= 2 && abs(p[2] - b) <= 2;
    }
    return count;
}

static void test_bars(void **state) {
    (void)state;
    const ChartBar bars[] = {{"one", 1, NAN, NAN, NAN, SERIES_SEEN, NULL},
                             {"", 0.5, 0.4, 0.6, 0.7, SERIES_UNSEEN, "not shown"},
                             {"ä label that is much too long for the column, ö ü", 2, NAN, NAN, NAN, SERIES_SEEN, NULL},
                             {"nothing", NAN, NAN, NAN, NAN, SERIES_SEEN, NULL}};
    static const char *const names[] = {"first", "second"};
    const ChartLegend legend = {names, (const int[]){SERIES_SEEN, SERIES_UNSEEN}, 2};
    Image chart = chart_bars_picture("Title", "note", bars, 4, legend, "%.2f");
    int blue = count_color(&chart, 0x2f, 0x6f, 0xd0), orange = count_color(&chart, 0xe0, 0x82, 0x1e);
    printf("chart %d x %d: %d blue, %d orange pixels\n", chart.width, chart.height, blue, orange);
    assert_true(blue > 5 * orange && orange > 1000 && chart.pixels[0] == 255);
    image_free(&chart);
    chart = chart_bars_picture("Empty", "", NULL, 0, (ChartLegend){0}, "%g");
    image_free(&chart);
}

// Values that no axis can hold: an axis has an end, and what is drawn has numbers.
static void test_hostile_values(void **state) {
    (void)state;
    static const double values[][2] = {
        {1e308, 1.79e308},     {INFINITY, 1}, {-INFINITY, NAN}, {5e-324, 1e-323}, {1e17, 1e17 + 16},
        {-1e308, 1e308},       {0, 0},        {NAN, NAN},       {1e-300, 1e300},  {-1e17, -1e17 - 16},
        {1e300, 1e300 * 1.001}};
    const double plain[2] = {1, 2};
    size_t most = 0;
    for (size_t i = 0; i < 2 * sizeof values / sizeof *values; i++) {
        for (int log = 0; log < 2; log++) {
            char *text;
            size_t size;
            FILE *out = open_memstream(&text, &size);
            const double *hostile = values[i / 2];
            ChartLine line = {.name = "x", .x = i % 2 ? hostile : plain, .y = i % 2 ? plain : hostile, .count = 2};
            line.style = LINE_WITH_DOTS;
            chart_lines(out, &line, 1, (ChartAxes){.x_label = "x", .y_label = "y", .log_x = log, .log_y = log});
            const ChartBar bar = {"x", hostile[0], hostile[0], hostile[1], hostile[1], 0, NULL};
            chart_bars(out, &bar, 1, (ChartLegend){0}, false);
            fclose(out);
            most = size > most ? size : most;
            static const char *const wrong[] = {"=\"nan", "=\"-nan", "=\"inf", "=\"-inf", "Mnan", "Lnan"};
            for (int k = 0; k < 6; k++) {
                if (strstr(text, wrong[k])) { fail_msg("%s with %g, %g", wrong[k], hostile[0], hostile[1]); }
            }
            free(text);
            Image chart = chart_bars_picture("Title", "", &bar, 1, (ChartLegend){0}, "%g");
            image_free(&chart);
        }
    }
    printf("largest chart: %zu bytes\n", most);
    assert_true(most < 200000);
}

static void test_draw(void **state) {
    (void)state;
    Image red = image_new(30, 10, 3), grey = image_new(5, 5, 1);
    for (int i = 0; i < 300; i++) { red.pixels[3 * i] = 200; }
    memset(grey.pixels, 99, 25);
    const Cell cells[] = {{&red, "a caption that wraps over more than two lines of the narrow cell for sure"},
                          {&grey, NULL},
                          {NULL, "empty"},
                          {&red, "x"}};
    static const char *const headings[] = {"left", "right"};
    Image sheet = draw_sheet(headings, cells, 2, 2, 90);
    printf("sheet %d x %d: %d red, %d grey pixels\n", sheet.width, sheet.height, count_color(&sheet, 200, 0, 0),
           count_color(&sheet, 99, 99, 99));
    assert_int_equal(count_color(&sheet, 200, 0, 0), 2 * 90 * 30); // fitted, aspect kept
    assert_true(count_color(&sheet, 99, 99, 99) >= 90 * 90);
    image_free(&sheet);
    image_free(&red);
    image_free(&grey);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bars), cmocka_unit_test(test_hostile_values),
                                       cmocka_unit_test(test_draw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
