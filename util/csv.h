// Texts in CSV files (RFC 4180).
#pragma once
#include <stdio.h>

void csv_put_text(FILE *out, const char *text); // in quotes; those inside are doubled
// Takes the field at *line apart, which it changes: returns the text without its quotes and moves *line behind the
// comma that follows, or to NULL at the end.
char *csv_take_field(char **line);
