#include "util/options.h"
#include "util/error.h"
#include "util/interrupt.h"
#include <popt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELP = 1 << 20 }; // popt's code of --help; those of the rows are their numbers, from 1

// popt reports only the value that it cannot read. The option is the argument before it, or part of it ("--lr=fast").
static const char *option_of(const char *bad, int argc, char **argv) {
    for (int i = 2; i < argc && strncmp(bad, "--", 2) != 0; i++) {
        if (strcmp(argv[i], bad) == 0 && strncmp(argv[i - 1], "--", 2) == 0) { return argv[i - 1]; }
    }
    return "";
}

// ---- The table for popt --------------------------------------------------------------------------------------------

static int popt_type(const Option *o) {
    static const int types[] = {
        [OPT_STRING] = POPT_ARG_STRING, [OPT_LIST] = POPT_ARG_ARGV,     [OPT_INT] = POPT_ARG_INT,
        [OPT_LONG] = POPT_ARG_LONGLONG, [OPT_DOUBLE] = POPT_ARG_DOUBLE, [OPT_FLAG] = POPT_ARG_NONE};
    return types[o->kind];
}

static double number_of(const Option *o) {
    switch (o->kind) {
    case OPT_INT:
        return *(int *)o->value;
    case OPT_LONG:
        return (double)*(long long *)o->value;
    case OPT_DOUBLE:
        return *(double *)o->value;
    default:
        return 0;
    }
}

static bool is_number(const Option *o) { return o->kind == OPT_INT || o->kind == OPT_LONG || o->kind == OPT_DOUBLE; }
static bool has_limits(const Option *o) { return is_number(o) && (o->low != 0 || o->high != 0); }

// A default outside the limits means "not given"; the option's help explains what the program then does.
static bool shows_default(const Option *o) {
    if (o->kind == OPT_STRING) { return *(char **)o->value != NULL; }
    return is_number(o) && (!has_limits(o) || (number_of(o) >= o->low && number_of(o) <= o->high));
}

// The option's help, followed by its choices.
static char *help_of(const Option *o) {
    if (!o->choices) { return xstrdup(o->help); }
    char *text = xprintf("%s: ", o->help);
    for (int i = 0; o->choices[i]; i++) {
        char *longer = xprintf("%s%s%s", text, i == 0 ? "" : o->choices[i + 1] ? ", " : " or ", o->choices[i]);
        free(text);
        text = longer;
    }
    return text;
}

// Converts the rows to popt's format: one table per heading, and a table that includes all of them. They live as long
// as the process, like the strings that popt returns.
static struct poptOption *popt_tables(const Option *table) {
    int rows = 0, headings = 1;
    for (const Option *o = table; o->kind != OPT_END; o++) { rows++, headings += o->kind == OPT_HEADING; }
    struct poptOption *all = xcalloc((size_t)headings + 2, sizeof *all);
    struct poptOption *row = xcalloc((size_t)rows + (size_t)headings + 1, sizeof *row);
    int groups = 0;
    for (int i = 0; i < rows; i++) {
        const Option *o = table + i;
        if (i == 0 || o->kind == OPT_HEADING) {
            row += i > 0; // skip the zeros that end the previous group
            const char *heading = o->kind == OPT_HEADING ? xprintf("%s:", o->name) : "Options:";
            all[groups++] = (struct poptOption){NULL, 0, POPT_ARG_INCLUDE_TABLE, row, 0, heading, NULL};
        }
        if (o->kind == OPT_HEADING) { continue; }
        int type = popt_type(o) | (shows_default(o) ? POPT_ARGFLAG_SHOW_DEFAULT : 0);
        *row++ = (struct poptOption){o->name, 0, type, o->value, i + 1, help_of(o), o->what};
    }
    static int asked;
    all[groups] = (struct poptOption){"help", '?', POPT_ARG_NONE, &asked, HELP, "show this help", NULL};
    return all;
}

static int count_rows(const Option *table) {
    int count = 0;
    while (table[count].kind != OPT_END) { count++; }
    return count;
}

Option *options_join(const Option *first, const Option *second, const Option *third) {
    const Option *parts[] = {first, second, third};
    int count = 0;
    Option *table = xcalloc((size_t)(count_rows(first) + count_rows(second) + count_rows(third)) + 1, sizeof *table);
    for (int i = 0; i < 3; i++) {
        memcpy(table + count, parts[i], (size_t)count_rows(parts[i]) * sizeof *table);
        count += count_rows(parts[i]);
    }
    return table;
}

// ---- Parsing -------------------------------------------------------------------------------------------------------

// popt reads 010 as 8 and 0x10 as 16, and refuses 08.
static void want_decimal(const char *option, const char *text) {
    const char *digits = text + strspn(text, " \t\n\v\f\r+-");
    if (digits[0] == '0' && strchr("0123456789xX", digits[1]) && digits[1]) {
        die("%s %s: expected a decimal number without leading zeros", option, text);
    }
}

static void check_given(const Option *o, const char *text) {
    char *option = xprintf("--%s", o->name);
    if (is_number(o) && !*text) { die("%s \"\": expected a number", option); } // popt takes it for 0
    if (o->kind == OPT_INT || o->kind == OPT_LONG) { want_decimal(option, text); }
    if (o->choices && *(char **)o->value) { options_choice(*(char **)o->value, option, o->choices); }
    if (has_limits(o)) { options_range(number_of(o), option, o->low, o->high); }
    free(option);
}

// After parsing: checks the choices (also of defaults) and the required options.
static void finish(const Option *o) {
    char *option = xprintf("--%s", o->name);
    if (o->choice && *(char **)o->value) { *o->choice = options_choice(*(char **)o->value, option, o->choices); }
    if (o->required) { options_require(*(char **)o->value, option, o->required); }
    free(option);
}

static void print_help(poptContext context, const char *name, const OptionsHelp *help) {
    interrupt_listing();
    printf("%s\n\n", help->about);
    poptPrintHelp(context, stdout, 0);
    printf("\nExample:\n  %s %s\n", name, help->example);
    exit(0);
}

bool options_asks_help(const char *argument) {
    static const char *const forms[] = {"--help", "-h", "-?", "help"};
    bool asks = false;
    for (int i = 0; i < 4; i++) { asks |= strcmp(argument, forms[i]) == 0; }
    return asks;
}

const char **options_parse(int argc, char **argv, const Option *table, const OptionsHelp *help, int max_arguments) {
    static const char *none[] = {NULL};
    char *name = xprintf("cocogold %s", argv[0]);
    const char **arguments = xcalloc((size_t)argc + 1, sizeof *arguments);
    memcpy(arguments, argv, (size_t)argc * sizeof *arguments);
    arguments[0] = name;
    poptContext context = poptGetContext(name, argc, arguments, popt_tables(table), 0);
    poptSetOtherOptionHelp(context, help->usage);
    int code;
    while ((code = poptGetNextOpt(context)) > 0) {
        if (code == HELP) { print_help(context, name, help); }
        char *text = poptGetOptArg(context);
        check_given(table + code - 1, text);
        free(text);
    }
    if (code < -1) {
        const char *bad = poptBadOption(context, POPT_BADOPTION_NOALIAS), *option = option_of(bad, argc, argv);
        if (code == POPT_ERROR_BADNUMBER) { want_decimal(option, bad); }
        die("%s: %s%s%s: %s (see %s --help)", argv[0], option, *option ? " " : "", bad, poptStrerror(code), name);
    }
    const char **rest = poptGetArgs(context); // lives as long as the context, which is kept on purpose
    int count = 0;
    while (rest && rest[count]) { count++; }
    if (count > max_arguments) {
        die("%s: unexpected argument \"%s\" (see %s --help)", argv[0], rest[max_arguments], name);
    }
    for (const Option *o = table; o->kind != OPT_END; o++) {
        if (o->kind != OPT_HEADING) { finish(o); }
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

// The argument as a shell reads it: in single quotes unless it has only letters, digits and some signs.
static char *quoted(const char *argument) {
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./,=@:+-";
    size_t length = strlen(argument);
    if (length && strspn(argument, plain) == length) { return xstrdup(argument); }
    char *text = xmalloc(4 * length + 3), *end = text;
    *end++ = '\'';
    for (const char *c = argument; *c; c++) {
        if (*c == '\'') {
            end = stpcpy(end, "'\\''"); // ends the quotes, a quote, begins them again
        } else {
            *end++ = *c;
        }
    }
    strcpy(end, "'");
    return text;
}

char *options_command(int argc, char **argv) {
    char *text = xstrdup("cocogold");
    for (int i = 0; i < argc; i++) {
        char *argument = quoted(argv[i]), *longer = xprintf("%s %s", text, argument);
        free(argument);
        free(text);
        text = longer;
    }
    return text;
}
