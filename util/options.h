// Command-line options of a command: one table, one row for each option. A row says all that there is to know about it:
//
//     static Option table[] = {
//         {OPT_STRING, "model", &o.model, "pipeline directory to start from", "DIR", .required = "a pipeline
//         directory"}, {OPT_HEADING, "Optimisation"}, {OPT_DOUBLE, "lr", &o.lr, "learning rate", "RATE", .high = 10},
//         {OPT_STRING, "loss", &o.loss, "what is minimised", "KIND", .choices = losses, .choice = &o.loss_kind},
//         {OPT_FLAG, "ema", &o.ema, "keep an exponential moving average of the weights"},
//         OPTIONS_END};
//
// Variables hold the defaults before options_parse; --help prints them. An unknown option, a value that is missing, of
// the wrong kind or out of its limits is a sentence and exit code 1.
#pragma once
#include <stdbool.h>

typedef enum {
    OPT_END,
    OPT_HEADING, // the rows that follow belong together; `name` is the line above them in --help
    OPT_STRING,  // char *, NULL if there is no default; what the user gives lives as long as the process
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
    const char *what;           // stands for the value in --help
    double low, high;           // numbers: the limits, both allowed; no limits if both are 0
    const char *const *choices; // strings: the values that are allowed, NULL-terminated
    int *choice;                // gets the index in `choices`, also of the default
    const char *required;       // what is expected if the option is not given
    bool may_change;            // train: may differ between a run and its continuation, without changing its numbers
} Option;

#define OPTIONS_END                                                                                                    \
    { OPT_END }

// What --help says beside the table.
typedef struct {
    const char *about;   // one sentence, or a few lines
    const char *usage;   // what follows "cocogold COMMAND" in the first line: "--model DIR --image FILE --text TEXT"
    const char *example; // a command line that works, without "cocogold COMMAND"
} OptionsHelp;

// Parses argv[1..] into the table's variables. Returns the NULL-terminated list of other arguments (never NULL); dies
// if there are more than max_arguments. --help prints and exits.
const char **options_parse(int argc, char **argv, const Option *table, const OptionsHelp *help, int max_arguments);

// Dies unless `value` was given: options_require(o.model, "--model", "a pipeline directory").
void options_require(const char *value, const char *option, const char *what);

// The index of `value` in the NULL-terminated list of choices; dies with the list otherwise.
int options_choice(const char *value, const char *option, const char *const *choices);

// Dies unless low <= value <= high.
void options_range(double value, const char *option, double low, double high);

// The command line as a user would type it, for the record: "cocogold eval --model demo ..."; to be freed.
char *options_command(int argc, char **argv);
