#include "util/progress.h"
#include <stdio.h>
#include <time.h>
#include <unistd.h>

double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *format_duration(double seconds, char *buffer) {
    long s = (long)(seconds + 0.5);
    if (s >= 3600) {
        snprintf(buffer, 24, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(buffer, 24, "%ld:%02ld", s / 60, s % 60);
    }
    return buffer;
}

const char *format_bytes(double bytes, char *buffer) {
    static const char *units[] = {"B", "kB", "MB", "GB", "TB"};
    int unit = 0;
    while (bytes >= 999.5 && unit < 4) {
        bytes /= 1000;
        unit++;
    }
    snprintf(buffer, 24, bytes < 9.95 && unit > 0 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return buffer;
}

Progress progress_begin(const char *what, const char *unit, long long total, long long first) {
    double now = now_seconds();
    return (Progress){.what = what,
                      .unit = unit,
                      .total = total,
                      .first = first,
                      .started = now,
                      .printed = now,
                      .terminal = isatty(STDERR_FILENO)};
}

static void print_line(const Progress *p, long long done, double elapsed, bool last) {
    char time[24];
    double rate = elapsed > 0 ? (double)(done - p->first) / elapsed : 0;
    fprintf(stderr, "%s%s %lld/%lld %s  %.1f/s  ", p->terminal ? "\r\033[K" : "", p->what, done, p->total, p->unit,
            rate);
    if (last) {
        fprintf(stderr, "in %s\n", format_duration(elapsed, time));
    } else {
        double left = rate > 0 ? (double)(p->total - done) / rate : 0;
        fprintf(stderr, "%s left%s", format_duration(left, time), p->terminal ? "" : "\n");
    }
    fflush(stderr);
}

void progress_update(Progress *p, long long done) {
    double now = now_seconds();
    if (now - p->printed < (p->terminal ? 0.2 : 10.0)) { return; }
    p->printed = now;
    print_line(p, done, now - p->started, false);
}

void progress_end(Progress *p, long long done) { print_line(p, done, now_seconds() - p->started, true); }
