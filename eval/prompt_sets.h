// Sets of prompts for the same classes, from other templates or with other names. They measure how a model that learned
// one set performs with another, independently of unseen classes.
#pragma once
#include <stdbool.h>

enum { MAX_PROMPT_SETS = 12 };

typedef struct {
    char *label; // "a photo of a {}", "synonyms.txt 1"
    char **text; // (classes)
    bool *has;   // (classes) false: the class has no such name; text is its own name
} PromptSet;

// Parses "SET|SET|..." into sets[0..MAX_PROMPT_SETS) and returns their number. A set is given by a template with {}, or
// by @FILE: lines "class: synonym, synonym, ..." (blank lines and lines that begin with # are skipped), which give a
// set of the first synonyms, one of the second, and so on. Classes that are missing in the list are skipped. Dies on a
// template without {}, a line without a colon, or too many sets. option: for messages.
int prompt_sets_parse(PromptSet *sets, const char *list, const char *option, const char *const *class_names,
                      int class_count);
void prompt_set_free(PromptSet *set, int class_count);
// The template with {} replaced by the name, in which _ is a blank ("alarm_clock" of LVIS); freed by the caller.
char *prompt_fill(const char *template, const char *class_name);
