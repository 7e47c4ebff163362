#include "util/csv.h"
#include <stdbool.h>
#include <string.h>

// OWASP's list: = + - @, tab and line breaks, and the wide forms of the first four, which some programs take for them.
// Blanks in front are no protection where a program trims them.
static bool like_formula(const char *text) {
    static const char *const wide[] = {"\uff1d", "\uff0b", "\uff0d", "\uff20"};
    text += strspn(text, " ");
    for (int i = 0; i < 4; i++) {
        if (strncmp(text, wide[i], 3) == 0) { return true; }
    }
    return *text && strchr("=+-@\t\r\n", *text);
}

static bool needs_apostrophe(const char *text) { return like_formula(text + strspn(text, "'")); }

void csv_put_text(FILE *out, const char *text) {
    fputc('"', out);
    if (needs_apostrophe(text)) { fputc('\'', out); }
    for (; *text; text++) {
        if (*text == '"') { fputc('"', out); }
        fputc(*text, out);
    }
    fputc('"', out);
}

char *csv_take_line(char **rest) {
    char *line = *rest;
    bool quoted = false;
    for (char *p = line; p; p++) {
        quoted ^= *p == '"';
        if (!*p) { return *rest = NULL, line; }
        if (*p != '\n' || quoted) { continue; }
        *p = 0;
        *rest = p + 1;
        return line;
    }
    return NULL;
}

char *csv_take_field(char **line) {
    char *field = *line, *from = field, *to = field;
    bool text = *from == '"';
    if (text) {
        for (from++; *from && (*from != '"' || from[1] == '"'); *to++ = *from++) { from += *from == '"'; }
        from += *from == '"';
    } else {
        to = from += strcspn(from, ",");
    }
    *line = *from == ',' ? from + 1 : NULL;
    *to = 0;
    return field + (text && *field == '\'' && needs_apostrophe(field));
}
