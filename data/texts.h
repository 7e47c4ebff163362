// Tables of distinct texts in UTF-8: the texts of samples are stored once each, and samples hold an index.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TEXT_BYTES = 4096 }; // most bytes of a text

// Texts in the order of their first appearance.
typedef struct {
    int count;
    char **texts;   // (count)
    int32_t *slots; // (slot_count, a power of two) index + 1, 0: free; open addressing
    size_t slot_count;
} TextTable;

int text_table_add(TextTable *table, const char *text); // its index; copies a text that is new. Begin with {0}.
// The trimmed lines of a file, without those that are empty. Dies if there are none; what: "names".
void text_table_add_lines(TextTable *table, const char *path, const char *what);
void text_table_free(TextTable *table);

// What is wrong with a text, for "PATH: ... X": "is not valid UTF-8", "has more than 4096 bytes"; NULL: nothing.
const char *text_problem(const char *text);
