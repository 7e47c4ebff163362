#include "util/text.h"
#include "util/error.h"
#include <stdlib.h>
#include <string.h>

size_t text_begin(const char *path, const char *text, size_t size) {
    const unsigned char *c = (const unsigned char *)text;
    if (size >= 2 && ((c[0] == 0xff && c[1] == 0xfe) || (c[0] == 0xfe && c[1] == 0xff))) {
        die("%s: begins with the byte order mark (BOM) of UTF-16, expected UTF-8", path);
    }
    return size >= 3 && c[0] == 0xef && c[1] == 0xbb && c[2] == 0xbf ? 3 : 0;
}

// Beyond ASCII: no-break space, U+2000 to U+200B, line and paragraph separator, ideographic space, byte order mark.
static const char *const blanks[] = {" ",
                                     "\t",
                                     "\r",
                                     "\n",
                                     "\v",
                                     "\f",
                                     "\xc2\xa0",
                                     "\xe2\x80\x80",
                                     "\xe2\x80\x81",
                                     "\xe2\x80\x82",
                                     "\xe2\x80\x83",
                                     "\xe2\x80\x84",
                                     "\xe2\x80\x85",
                                     "\xe2\x80\x86",
                                     "\xe2\x80\x87",
                                     "\xe2\x80\x88",
                                     "\xe2\x80\x89",
                                     "\xe2\x80\x8a",
                                     "\xe2\x80\x8b",
                                     "\xe2\x80\xa8",
                                     "\xe2\x80\xa9",
                                     "\xe3\x80\x80",
                                     "\xef\xbb\xbf"};
enum { BLANKS = sizeof blanks / sizeof *blanks };

// Bytes of the blank at the start, or at the end, of a text of `length` bytes; 0 if there is none.
static size_t blank_at(const char *text, size_t length, bool end) {
    for (int i = 0; i < BLANKS; i++) {
        size_t n = strlen(blanks[i]);
        if (n <= length && memcmp(end ? text + length - n : text, blanks[i], n) == 0) { return n; }
    }
    return 0;
}

char *text_trim(char *text) {
    size_t length = strlen(text);
    for (size_t n; (n = blank_at(text, length, false)); length -= n) { text += n; }
    for (size_t n; (n = blank_at(text, length, true));) { length -= n; }
    text[length] = 0;
    return text;
}

bool text_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

char *text_trimmed(const char *text) {
    char *copy = xstrdup(text), *from = text_trim(copy);
    memmove(copy, from, strlen(from) + 1);
    return copy;
}

// Marks that change the direction of writing: U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069.
static bool turns_text(const unsigned char *c) {
    if (*c != 0xe2) { return false; }
    return (c[1] == 0x80 && ((c[2] >= 0x8e && c[2] <= 0x8f) || (c[2] >= 0xaa && c[2] <= 0xae))) ||
           (c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9);
}

char *text_shown(const char *text) {
    char *shown = xmalloc(4 * strlen(text) + 1), *to = shown;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool second = *c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0; // U+0080 to U+009F
        if (turns_text(c)) {
            to += sprintf(to, "\\u20%02x", (c[1] & 3) << 6 | (c[2] & 0x3f));
            c += 2;
            continue;
        }
        const char *named = strchr("\n\t\r", *c), *letters = "ntr";
        if (*c >= 0x20 && *c != 0x7f && !second) {
            *to++ = (char)*c;
        } else if (named) {
            to += sprintf(to, "\\%c", letters[named - strchr("\n\t\r", '\n')]);
        } else {
            c += second;
            to += sprintf(to, "\\x%02x", *c);
        }
    }
    *to = 0;
    return shown;
}

void text_column(FILE *out, int width, const char *text) {
    char *shown = text_shown(text);
    fprintf(out, "%-*s", width, shown);
    free(shown);
}

uint64_t hash_more(uint64_t hash, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) { hash = (hash ^ ((const uint8_t *)bytes)[i]) * 1099511628211u; }
    return hash;
}

uint64_t text_hash(const char *bytes, size_t size) { return hash_more(HASH_BEGIN, bytes, size); }

// Bytes of the text's start, at most 100, that do not end within a UTF-8 character.
static size_t cut(const char *text) {
    size_t length = strlen(text);
    if (length <= 100) { return length; }
    for (length = 100; length && ((unsigned char)text[length] & 0xc0) == 0x80;) { length--; }
    return length;
}

char *text_file_name(const char *text) {
    size_t length = cut(text);
    bool whole = text[length] == 0 && length > 0;
    char *name = xprintf("%.*s", (int)length, text);
    for (char *c = name; *c; c++) {
        unsigned char u = (unsigned char)*c;
        bool letter = (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || (u >= '0' && u <= '9');
        if (letter || u >= 0x80 || *c == '-' || (*c == '.' && c > name)) { continue; }
        whole &= *c == ' ';
        *c = '_';
    }
    if (whole) { return name; }
    char *unique = xprintf("%s-%08x", name, (unsigned)(text_hash(text, strlen(text)) >> 32));
    free(name);
    return unique;
}
