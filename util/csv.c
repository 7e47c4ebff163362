#include "util/csv.h"
#include <string.h>

void csv_put_text(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') { fputc('"', out); }
        fputc(*text, out);
    }
    fputc('"', out);
}

char *csv_take_field(char **line) {
    char *field = *line, *from = field, *to = field;
    if (*from == '"') {
        for (from++; *from && (*from != '"' || from[1] == '"'); *to++ = *from++) { from += *from == '"'; }
        from += *from == '"';
    } else {
        to = from += strcspn(from, ",");
    }
    *line = *from == ',' ? from + 1 : NULL;
    *to = 0;
    return field;
}
