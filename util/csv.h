// Texts in CSV files (RFC 4180).
#pragma once
#include <stdio.h>

// In quotes; those inside are doubled. Spreadsheets run a text that begins like a formula, also in quotes: it gets an
// apostrophe in front, which marks a text there, and so does one that would look like that.
void csv_put_text(FILE *out, const char *text);
// Takes the line at *rest apart, whose quoted fields may hold line breaks, and moves *rest behind it, or to NULL at the
// end; NULL if *rest is.
char *csv_take_line(char **rest);
// Takes the field at *line apart, which it changes: returns what csv_put_text was given and moves *line behind the
// comma that follows, or to NULL at the end.
char *csv_take_field(char **line);
