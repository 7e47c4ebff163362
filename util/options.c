#include "util/options.h"
#include "util/error.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// popt names the value that it cannot read; its option is the argument before it, or a part of it ("--lr=fast").
static const char *option_of(const char *bad, int argc, char **argv) {
    for (int i = 2; i < argc && strncmp(bad, "--", 2) != 0; i++) {
        if (strcmp(argv[i], bad) == 0 && strncmp(argv[i - 1], "--", 2) == 0) { return argv[i - 1]; }
    }
    return "";
}

const char **options_parse(int argc, char **argv, struct poptOption *table, const char *usage, const char *about,
                           int max_arguments) {
    static const char *none[] = {NULL};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-?") == 0) { printf("%s\n\n", about); }
    }
    char *name = xprintf("cocogold %s", argv[0]);
    const char **arguments = xcalloc((size_t)argc + 1, sizeof *arguments);
    memcpy(arguments, argv, (size_t)argc * sizeof *arguments);
    arguments[0] = name;
    poptContext context = poptGetContext(name, argc, arguments, table, 0);
    poptSetOtherOptionHelp(context, usage);
    int code = poptGetNextOpt(context);
    while (code > 0) { code = poptGetNextOpt(context); }
    if (code < -1) {
        const char *bad = poptBadOption(context, POPT_BADOPTION_NOALIAS), *option = option_of(bad, argc, argv);
        die("%s: %s%s%s: %s (see %s --help)", argv[0], option, *option ? " " : "", bad, poptStrerror(code), name);
    }
    const char **rest = poptGetArgs(context); // lives as long as the context, which is kept on purpose
    int count = 0;
    while (rest && rest[count]) { count++; }
    if (count > max_arguments) {
        die("%s: unexpected argument \"%s\" (see %s --help)", argv[0], rest[max_arguments], name);
    }
    free(arguments);
    free(name);
    return rest ? rest : none;
}

void options_require(const char *value, const char *option, const char *what) {
    if (!value || !*value) { die("%s is missing: expected %s", option, what); }
}

int options_choice(const char *value, const char *option, const char *const *choices) {
    char list[512] = "";
    for (int i = 0; choices[i]; i++) {
        if (strcmp(value, choices[i]) == 0) { return i; }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", choices[i]);
    }
    die("%s %s: expected one of %s", option, value, list);
}

void options_range(double value, const char *option, double low, double high) {
    if (!(value >= low && value <= high)) { die("%s %g: expected a value from %g to %g", option, value, low, high); }
}

char *options_command(int argc, char **argv) {
    char *text = xstrdup("cocogold");
    for (int i = 0; i < argc; i++) {
        char *longer = xprintf("%s %s", text, argv[i]);
        free(text);
        text = longer;
    }
    return text;
}
