// Lists of classes (--classes @FILE, data/classes.c) and of synonyms (--text-template @FILE, eval/prompt_sets.c).
#include "data/classes.h"
#include "eval/prompt_sets.h"
#include "tests/fuzz/fuzz.h"
#include "util/error.h"
#include <stdlib.h>

const char *const fuzz_files[] = {"classes.txt", "synonyms.txt", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    static const char *const names[] = {"cat", "dining table", "caf\xc3\xa9"};
    if (fuzz_has("classes.txt")) {
        char *list = xprintf("@%s", fuzz_path("classes.txt"));
        free(classes_of_names((char *const *)names, 3, "here", "--classes", list));
        free(list);
    }
    if (fuzz_has("synonyms.txt")) {
        char *list = xprintf("a photo of a {}|@%s", fuzz_path("synonyms.txt"));
        PromptSet sets[MAX_PROMPT_SETS];
        int count = prompt_sets_parse(sets, list, "--text-template", names, 3);
        for (int i = 0; i < count; i++) { prompt_set_free(&sets[i], 3); }
        free(list);
    }
}
