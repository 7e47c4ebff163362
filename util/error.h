// Errors. A user's mistake or a damaged file gives one sentence on stderr and exit code 1, and leaves no incomplete
// files behind. Programming errors use assert().
#pragma once
#include <stdbool.h>
#include <stddef.h>

// Prints "cocogold: <sentence>\n" to stderr, removes the files registered with cleanup_add, and exits with code 1.
// The sentence names the file, the field and what was expected. Of several threads only the first says its sentence;
// the others do not return.
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

// Like die, with an exit code, for a thread that watches others: does not call exit(), which could wait for threads
// that hang. What other threads do meanwhile gets no final name, and they say nothing more.
void leave_now(int code, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
void leave_silently(int code) __attribute__((noreturn)); // without a sentence

// Prints the sentence as die does, but returns: for a caller that ends with exit code 1 together with other ranks.
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

// True once die() has been called.
bool error_died(void);

// From now on sentences begin with "cocogold: rank N: ", and ranks other than 0 wait three seconds in die(), so that
// rank 0 can print the error first.
void error_set_rank(int rank);
bool error_first_rank(void); // rank 0, or there is only one

// Prints "cocogold: warning: <sentence>\n" to stderr.
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Called first by main. From now on, output to stdout that cannot be written (a full disk, ...) is an error at the end
// of the program: one sentence (unless another one was said) and exit code 1. Standard descriptors that were closed
// lead to /dev/null, so that no file of this program gets their numbers and with them what is printed.
void error_begin(void);

// The end of a command whose stdout is a pipe that nobody reads: prints the sentence "standard output cannot be
// written: Broken pipe; <kept>", on rank 0 only, and returns the exit code, 1.
int error_broken_pipe(const char *kept);
bool error_nobody_reads(void); // stdout is such a pipe

// Registers a temporary file or folder. It is removed (a folder with its contents) if the program dies or exits before
// cleanup_remove(path) is called. Thread-safe; the path is copied.
void cleanup_add(const char *path);
void cleanup_remove(const char *path);
void cleanup_now(void); // removes all of them; exit() calls it, _exit() does not
// Around a rename to a final name: between the two nothing is removed. The first does not return once leave_now is on.
void cleanup_hold(void);
void cleanup_release(void);

// malloc, calloc, realloc and strdup that call die when memory runs out.
void *xmalloc(size_t bytes);
void *xcalloc(size_t count, size_t bytes);
void *xrealloc(void *pointer, size_t bytes);
char *xstrdup(const char *text);
// Makes room for one more element after `count`: GROW(array, count); array[count++] = ... It doubles at 1, 2, 4, ...
#define GROW(array, count) ((array) = xgrow((array), (size_t)(count), sizeof *(array)))
void *xgrow(void *array, size_t count, size_t bytes);
// A newly allocated formatted string; the caller frees it.
char *xprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
