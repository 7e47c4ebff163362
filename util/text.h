// Names and other texts that come from files and from the command line: how they are compared, and how they are written
// to a terminal and as part of a file's name.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

// Bytes of a byte order mark (BOM) at the start of a file's text. Dies if it is UTF-16's.
size_t text_begin(const char *path, const char *text, size_t size);

// Cuts blanks off both ends of a text, in place: ASCII's white space, a byte order mark (U+FEFF), the no-break space
// and Unicode's wide and zero-width blanks. Returns where the rest begins. Names are compared after this.
char *text_trim(char *text);

bool text_ends_with(const char *text, const char *end);

// A trimmed copy, which the caller frees.
char *text_trimmed(const char *text);

// The text with each control character (ASCII's and U+0080 to U+009F) as \n, \t, or \x1b, and marks that change the
// direction of writing as \u202e, so that it cannot move a terminal's cursor, begin a line or be shown in another
// order. The caller frees it.
char *text_shown(const char *text);
// Prints a shown text in a column of `width`, to the left.
void text_column(FILE *out, int width, const char *text);

// A part of a file's name that stands for the text, the caller frees it. Letters, digits, dots, minus and UTF-8 beyond
// ASCII stay, a blank becomes "_". What else there is becomes "_" too and "-" with eight digits of the text's hash
// follows, as after a text of more than 100 bytes, so that different texts have different names.
char *text_file_name(const char *text);

// 64 bits, as FNV-1a (Fowler, Noll, Vo), but from HASH_BEGIN, which lacks the last digit of theirs: names of files, ids
// that are made of texts, and checkpoints depend on it.
uint64_t text_hash(const char *bytes, size_t size);
// The same in parts: begins with HASH_BEGIN, and goes on with the hash of what came before.
#define HASH_BEGIN 1469598103934665603u
uint64_t hash_more(uint64_t hash, const void *bytes, size_t size);
