// Progress of a long computation on stderr. On a terminal one line is rewritten in place ("encode 512/2000  35.1/s
// 0:42 left"); in a file, a new line is written every ten seconds. Of several ranks only rank 0 prints.
#pragma once
#include <stdbool.h>

typedef struct Progress {
    const char *what;       // "encode"
    const char *unit;       // "pictures"
    long long total, first; // all units, and those that were done before this run
    double started, printed;
    bool terminal;
    char phase[96]; // of work: "step 2 of 4"
    long long done; // of work
} Progress;

double now_seconds(void); // monotonic clock

Progress progress_begin(const char *what, const char *unit, long long total, long long first);
void progress_update(Progress *progress, long long done);
void progress_end(Progress *progress, long long done); // prints the last line, with the total time

// Work of no unit that people count (bytes, FLOPs), which is quick where models and files are small: nothing is printed
// in the first two seconds, and progress_end prints nothing if progress_add did not.
//     segment: step 2 of 4  37%  0:42 left
Progress progress_work(const char *what, long long total);
void progress_add(Progress *progress, long long work);
// What is being done now; progress may be NULL.
void progress_phase(Progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));

// "0:42", "12:05" or "3:07:00" in `buffer` (at least 24 bytes), which is returned.
const char *format_duration(double seconds, char *buffer);
// "3.2 GB", "870 MB" (powers of 1000) in `buffer` (at least 24 bytes), which is returned.
const char *format_bytes(double bytes, char *buffer);
