#include "eval/prompt_sets.h"
#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <stdlib.h>
#include <string.h>

char *prompt_fill(const char *template, const char *class_name) {
    const char *hole = strstr(template, "{}");
    if (!hole) { return xstrdup(template); }
    size_t begin = (size_t)(hole - template), end = begin + strlen(class_name);
    char *prompt = xprintf("%.*s%s%s", (int)begin, template, class_name, hole + 2);
    for (size_t i = begin; i < end; i++) {
        if (prompt[i] == '_') { prompt[i] = ' '; }
    }
    return prompt;
}

static PromptSet set_create(char *label, int class_count) {
    return (PromptSet){label, xcalloc((size_t)class_count + 1, sizeof(char *)),
                       xcalloc((size_t)class_count + 1, sizeof(bool))};
}

void prompt_set_free(PromptSet *set, int class_count) {
    for (int c = 0; c < class_count; c++) { free(set->text[c]); }
    free(set->text);
    free(set->has);
    free(set->label);
}

// Names of the class (index c) from one line: the k-th goes to the k-th set from `first` on.
static void take_synonyms(PromptSet *sets, int first, int *count, char *names, int c, const char *path,
                          const char *option, int class_count) {
    int k = first;
    for (char *name; (name = strsep(&names, ","));) {
        name = text_trim(name);
        if (!*name) { continue; }
        if (k == MAX_PROMPT_SETS) { die("%s: more than %d prompt sets", option, MAX_PROMPT_SETS); }
        if (k == *count) { sets[(*count)++] = set_create(xprintf("%s %d", path, k - first + 1), class_count); }
        free(sets[k].text[c]);
        sets[k].text[c] = xstrdup(name);
        sets[k++].has[c] = true;
    }
}

static void read_synonyms(PromptSet *sets, int *count, const char *path, const char *option,
                          const char *const *class_names, int class_count) {
    size_t size;
    char *text = read_file(path, &size), *rest = text;
    text_begin(path, text, size); // dies if it is UTF-16
    int first = *count, number = 0;
    for (char *line; (line = strsep(&rest, "\n"));) {
        number++;
        line = text_trim(line);
        if (!*line || *line == '#') { continue; }
        char *colon = strchr(line, ':');
        if (!colon) { die("%s: line %d: expected \"class: synonym, synonym, ...\"", path, number); }
        *colon = 0;
        line = text_trim(line);
        for (int c = 0; c < class_count; c++) {
            if (strcmp(class_names[c], line) != 0) { continue; }
            take_synonyms(sets, first, count, colon + 1, c, path, option, class_count);
        }
    }
    if (*count == first) { die("%s: has no synonym for any of the classes", path); }
    free(text);
}

int prompt_sets_parse(PromptSet *sets, const char *list, const char *option, const char *const *class_names,
                      int class_count) {
    int count = 0;
    char *text = xstrdup(list), *rest = text;
    for (char *part; (part = strsep(&rest, "|"));) {
        if (*part == '@') {
            read_synonyms(sets, &count, part + 1, option, class_names, class_count);
            continue;
        }
        if (!strstr(part, "{}")) { die("%s \"%s\": expected a template with {} or @FILE", option, part); }
        if (count == MAX_PROMPT_SETS) { die("%s: more than %d prompt sets", option, MAX_PROMPT_SETS); }
        PromptSet *set = &sets[count++];
        *set = set_create(xstrdup(part), class_count);
        for (int c = 0; c < class_count; c++) {
            set->text[c] = prompt_fill(part, class_names[c]);
            set->has[c] = true;
        }
    }
    free(text);
    for (int k = 0; k < count; k++) {
        for (int c = 0; c < class_count; c++) {
            if (!sets[k].text[c]) { sets[k].text[c] = xstrdup(class_names[c]); }
        }
    }
    return count;
}
