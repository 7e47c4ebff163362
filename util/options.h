// Command-line options of a command: one popt table whose entries point into the command's struct of options.
//
//     static struct poptOption table[] = {
//         {"lr", 0, OPT_DOUBLE, &options.lr, 0, "learning rate (Marigold's value)", "RATE"},
//         {"ema", 0, OPT_FLAG, &options.ema, 0, "keep an exponential moving average of the weights", NULL},
//         OPTIONS_END};
//
// --help prints every option with its default; an unknown option, a missing value or a value of the wrong kind is a
// sentence and exit code 1. popt keeps strings that the user gives for the life of the process.
#pragma once
#include <popt.h>

#define OPT_STRING (POPT_ARG_STRING | POPT_ARGFLAG_SHOW_DEFAULT) // char *
#define OPT_TEXT POPT_ARG_STRING                                 // char *, NULL unless given
#define OPT_INT (POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT)       // int
#define OPT_LONG (POPT_ARG_LONGLONG | POPT_ARGFLAG_SHOW_DEFAULT) // long long
#define OPT_DOUBLE (POPT_ARG_DOUBLE | POPT_ARGFLAG_SHOW_DEFAULT) // double
#define OPT_FLAG POPT_ARG_NONE                                   // int, set to 1
#define OPTIONS_END POPT_AUTOHELP POPT_TABLEEND

// Parses argv[1..] into the table's variables. `usage` is what follows "cocogold COMMAND" in the first help line, e.g.
// "--model DIR --image FILE --text TEXT"; `about` is the sentence under it. Returns the NULL-terminated list of other
// arguments (never NULL); dies if there are more than max_arguments.
const char **options_parse(int argc, char **argv, struct poptOption *table, const char *usage, const char *about,
                           int max_arguments);

// Dies unless `value` was given: options_require(o.model, "--model", "a pipeline directory").
void options_require(const char *value, const char *option, const char *what);

// The index of `value` in the NULL-terminated list of choices; dies with the list otherwise.
int options_choice(const char *value, const char *option, const char *const *choices);

// Dies unless low <= value <= high.
void options_range(double value, const char *option, double low, double high);

// The command line as a user would type it, for the record: "cocogold eval --model demo ..."; to be freed.
char *options_command(int argc, char **argv);
