// A fuzz target (tests/README.md) is a file fuzz_NAME.c that defines these. libFuzzer makes the inputs and watches
// which branches they reach; fuzz.c writes an input to files and calls fuzz_one.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Names of the files that an input may hold, NULL-terminated. An input for one file is that file. For several, a line
// "=== NAME" begins each; files that it lacks are not there.
extern const char *const fuzz_files[];
// Called once, before the first input.
void fuzz_begin(void);
// Reads the files as the program does, and uses what it read. It may end in die(), as from a user's mistake: the
// memory, files and maps that it took are then given back, and the next input follows. It must free all it takes
// otherwise.
void fuzz_one(void);
// Called after fuzz_one has died, to give back what only the target knows. May be empty.
void fuzz_died(void);

// The path of a file of the input, or of "" for their folder. It stays valid for the next eight calls.
const char *fuzz_path(const char *name);
bool fuzz_has(const char *name); // the input holds this file
