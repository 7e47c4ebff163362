// Progress of a long computation on stderr. On a terminal one line is rewritten in place ("encode 512/2000  35.1/s
// 0:42 left"); in a file, a new line is written every ten seconds.
#pragma once
#include <stdbool.h>

typedef struct {
    const char *what;       // "encode"
    const char *unit;       // "pictures"
    long long total, first; // all units, and those that were done before this run
    double started, printed;
    bool terminal;
} Progress;

double now_seconds(void); // monotonic clock

Progress progress_begin(const char *what, const char *unit, long long total, long long first);
void progress_update(Progress *progress, long long done);
void progress_end(Progress *progress, long long done); // prints the last line, with the total time

// "0:42", "12:05" or "3:07:00" in `buffer` (at least 24 bytes), which is returned.
const char *format_duration(double seconds, char *buffer);
// "3.2 GB", "870 MB" (powers of 1000) in `buffer` (at least 24 bytes), which is returned.
const char *format_bytes(double bytes, char *buffer);
