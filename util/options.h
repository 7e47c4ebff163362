// Command-line options of a command: one table, with one row for each option:
//
//     static Option table[] = {
//         {OPT_STRING, "model", &o.model, "pipeline to start from", "DIR", .required = "a pipeline directory"},
//         {OPT_HEADING, "Optimisation"},
//         {OPT_DOUBLE, "lr", &o.lr, "learning rate", "RATE", .high = 10},
//         {OPT_STRING, "loss", &o.loss, "loss to minimise", "KIND", .choices = losses, .choice = &o.loss_kind},
//         {OPT_FLAG, "ema", &o.ema, "keep an exponential moving average of the weights"},
//         OPTIONS_END};
//
// Before options_parse the variables hold the defaults; --help prints them. An unknown option, or a value that is
// missing, of the wrong type or out of range, ends the program with a sentence and exit code 1.
#pragma once
#include <stdbool.h>

typedef enum {
    OPT_END,
    OPT_HEADING, // starts a group of rows; --help prints `name` above them
    OPT_STRING,  // char *, NULL if there is no default; a given value lives as long as the process
    OPT_LIST,    // char **, NULL-terminated: the option may be repeated
    OPT_INT,     // int
    OPT_LONG,    // long long
    OPT_DOUBLE,  // double
    OPT_FLAG,    // int, set to 1
} OptionKind;

typedef struct {
    OptionKind kind;
    const char *name; // "lr" for --lr
    void *value;
    const char *help;
    const char *what;           // placeholder of the value in --help
    double low, high;           // numbers: the limits, both included; no limits if both are 0
    const char *const *choices; // strings: the values that are allowed, NULL-terminated
    int *choice;                // receives the index in `choices`, also for the default
    const char *required;       // the option must be given; describes the expected value in the error
    bool may_change;            // train: --resume may change the value, which does not affect the results
} Option;

#define OPTIONS_END                                                                                                    \
    { OPT_END }

// What --help prints besides the table.
typedef struct {
    const char *about;   // one sentence, or a few lines
    const char *usage;   // the rest of the usage line after "cocogold COMMAND": "--model DIR --image FILE --text TEXT"
    const char *example; // a command line that works, without "cocogold COMMAND"
} OptionsHelp;

// Parses argv[1..] into the table's variables. Returns the NULL-terminated list of the remaining arguments (never
// NULL); dies if there are more than max_arguments. --help prints the help and exits.
const char **options_parse(int argc, char **argv, const Option *table, const OptionsHelp *help, int max_arguments);

// One table with the rows of three, to be freed.
Option *options_join(const Option *first, const Option *second, const Option *third);
// Whether the first argument of a program that has commands asks for its help: --help, -h, -? or help.
bool options_asks_help(const char *argument);

// Dies unless `value` was given: options_require(o.model, "--model", "a pipeline directory").
void options_require(const char *value, const char *option, const char *what);

// The index of `value` in the NULL-terminated list of choices; dies and names the choices if it is not among them.
int options_choice(const char *value, const char *option, const char *const *choices);

// Dies unless low <= value <= high.
void options_range(double value, const char *option, double low, double high);

// The command line as a user types it into a shell ("cocogold eval --model demo --group 'fruit=apple, orange'"), for
// logs. The caller frees it.
char *options_command(int argc, char **argv);
