#include "eval/texts.h"
#include "util/error.h"
#include "util/file.h"
#include <stdlib.h>
#include <string.h>

char *text_fill(const char *template, const char *class_name) {
    const char *hole = strstr(template, "{}");
    return hole ? xprintf("%.*s%s%s", (int)(hole - template), template, class_name, hole + 2) : xstrdup(template);
}

static char *trim(char *text) {
    text += strspn(text, " \t\r");
    size_t length = strlen(text);
    while (length && strchr(" \t\r", text[length - 1])) { text[--length] = 0; }
    return text;
}

static TextWay way_create(char *label, int class_count) {
    return (TextWay){label, xcalloc((size_t)class_count + 1, sizeof(char *)),
                     xcalloc((size_t)class_count + 1, sizeof(bool))};
}

void text_way_free(TextWay *way, int class_count) {
    for (int c = 0; c < class_count; c++) { free(way->text[c]); }
    free(way->text);
    free(way->has);
    free(way->label);
}

// Names of the class (index c) from one line: the k-th goes to the k-th way from `first` on.
static void take_synonyms(TextWay *ways, int first, int *count, char *names, int c, const char *path,
                          const char *option, int class_count) {
    int k = first;
    for (char *name; (name = strsep(&names, ","));) {
        name = trim(name);
        if (!*name) { continue; }
        if (k == MAX_TEXT_WAYS) { die("%s: more than %d ways to ask", option, MAX_TEXT_WAYS); }
        if (k == *count) { ways[(*count)++] = way_create(xprintf("%s %d", path, k - first + 1), class_count); }
        free(ways[k].text[c]);
        ways[k].text[c] = xstrdup(name);
        ways[k++].has[c] = true;
    }
}

static void read_synonyms(TextWay *ways, int *count, const char *path, const char *option,
                          const char *const *class_names, int class_count) {
    char *text = read_file(path, NULL), *rest = text;
    int first = *count, number = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        number++;
        line = trim(line);
        if (!*line || *line == '#') { continue; }
        char *colon = strchr(line, ':');
        if (!colon) { die("%s: line %d: expected \"class: synonym, synonym, ...\"", path, number); }
        *colon = 0;
        line = trim(line);
        for (int c = 0; c < class_count; c++) {
            if (strcmp(class_names[c], line) != 0) { continue; }
            take_synonyms(ways, first, count, colon + 1, c, path, option, class_count);
        }
    }
    if (*count == first) { die("%s: has no synonym for any of the classes", path); }
    free(text);
}

int text_ways_parse(TextWay *ways, const char *list, const char *option, const char *const *class_names,
                    int class_count) {
    int count = 0;
    char *text = xstrdup(list), *rest = text;
    for (char *part; (part = strsep(&rest, "|"));) {
        if (*part == '@') {
            read_synonyms(ways, &count, part + 1, option, class_names, class_count);
            continue;
        }
        if (!strstr(part, "{}")) { die("%s \"%s\": expected a template with {} or @FILE", option, part); }
        if (count == MAX_TEXT_WAYS) { die("%s: more than %d ways to ask", option, MAX_TEXT_WAYS); }
        TextWay *way = &ways[count++];
        *way = way_create(xstrdup(part), class_count);
        for (int c = 0; c < class_count; c++) {
            way->text[c] = text_fill(part, class_names[c]);
            way->has[c] = true;
        }
    }
    free(text);
    for (int k = 0; k < count; k++) {
        for (int c = 0; c < class_count; c++) {
            if (!ways[k].text[c]) { ways[k].text[c] = xstrdup(class_names[c]); }
        }
    }
    return count;
}
