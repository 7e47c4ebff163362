// Ways to ask for the same classes: other templates, other names. How a model that learned one way fares with another
// is a question of its own, beside that of unseen classes.
#pragma once
#include <stdbool.h>

enum { MAX_TEXT_WAYS = 12 };

typedef struct {
    char *label; // "a photo of a {}", "synonyms.txt 1"
    char **text; // (classes)
    bool *has;   // (classes) false: there is no such name, the text is the class's own
} TextWay;

// Parses "WAY|WAY|..." into ways[0..MAX_TEXT_WAYS) and returns their number. A way is a template with {}, or @FILE:
// lines "class: synonym, synonym, ..." (blank lines and lines that begin with # are skipped), which gives a way for the
// first synonyms, one for the second, and so on. Classes that the list does not know are skipped. Dies at a template
// without
// {}, a line without a colon, or too many ways; option: for messages.
int text_ways_parse(TextWay *ways, const char *list, const char *option, const char *const *class_names,
                    int class_count);
void text_way_free(TextWay *way, int class_count);
// The template with {} replaced; to be freed.
char *text_fill(const char *template, const char *class_name);
