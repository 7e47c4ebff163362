#include "util/progress.h"
#include "util/error.h"
#include <math.h>
#include <stdarg.h>
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

// Seconds between two lines.
static double interval(const Progress *p) { return p->terminal ? 0.2 : 10; }

Progress progress_begin(const char *what, const char *unit, long long total, long long first) {
    double now = now_seconds();
    return (Progress){.what = what,
                      .unit = unit,
                      .total = total,
                      .first = first,
                      .started = now,
                      .printed = error_first_rank() ? now : NAN,
                      .terminal = isatty(STDERR_FILENO)};
}

enum { QUIET = 2 }; // seconds at the start of work

Progress progress_work(const char *what, long long total) {
    Progress p = progress_begin(what, NULL, total, 0);
    double first = p.started + QUIET;
    if (error_first_rank()) { p.printed = first - interval(&p); }
    return p;
}

void progress_phase(Progress *p, const char *format, ...) {
    if (!p) { return; }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->phase, sizeof p->phase, format, arguments);
    va_end(arguments);
}

void progress_add(Progress *p, long long work) {
    p->done += work;
    progress_update(p, p->done);
}

static void print_work(const Progress *p, double elapsed, bool last) {
    char time[24];
    double share = p->total > 0 ? fmin(1, (double)p->done / (double)p->total) : 0;
    fprintf(stderr, "%s%s", p->terminal ? "\r\033[K" : "", p->what);
    if (last) {
        fprintf(stderr, "  in %s\n", format_duration(elapsed, time));
    } else {
        double left = share > 0 ? elapsed * (1 - share) / share : 0;
        fprintf(stderr, "%s%s  %.0f%%  %s left%s", *p->phase ? ": " : "", p->phase, 100 * share,
                format_duration(left, time), p->terminal ? "" : "\n");
    }
    fflush(stderr);
}

static void print_line(const Progress *p, long long done, double elapsed, bool last) {
    char time[24];
    if (!p->unit) {
        print_work(p, elapsed, last);
        return;
    }
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
    if (!(now - p->printed >= interval(p))) { return; }
    p->printed = now;
    print_line(p, done, now - p->started, false);
}

void progress_end(Progress *p, long long done) {
    double first = p->unit ? p->started : p->started + QUIET;
    if (!(p->printed >= first)) { return; }
    print_line(p, done, now_seconds() - p->started, true);
}
