// cocogold analyze QUESTION. Each question is a function of a file analyze_*.c; `command` is the command line, for
// records.
#include "kernels/runtime/launch.h"
#include "util/error.h"
#include "util/interrupt.h"
#include "util/options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int analyze_latents(int argc, char **argv, const char *command);
int analyze_leak(int argc, char **argv, const char *command);
int analyze_starts(int argc, char **argv, const char *command);
int analyze_arms(int argc, char **argv, const char *command);

static const struct {
    const char *name;
    int (*run)(int argc, char **argv, const char *command);
    const char *about;
} questions[] = {
    {"latents", analyze_latents, "how well a VAE's latents tell good masks from bad ones"},
    {"leak", analyze_leak, "how much of the answer a noise schedule leaves in the noisiest training sample"},
    {"starts", analyze_starts, "what a model of Marigold's kind reads from the start of sampling"},
    {"arms", analyze_arms, "how the runs of an experiment compare (train/experiments/failure_and_fix.sh)"},
};

int cmd_analyze(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        if (strcmp(name, questions[i].name) != 0) { continue; }
        launch_want_alone("analyze");
        char *command = options_command(argc, argv);
        argv[1] = xprintf("analyze %s", name);
        int code = questions[i].run(argc - 1, argv + 1, command);
        free(command);
        return code;
    }
    if (!options_asks_help(name)) {
        die("analyze: %s (see cocogold analyze --help)",
            name[0] == '-' ? xprintf("%s: unknown option", name) : "expected latents, leak, starts or arms");
    }
    interrupt_listing();
    printf(
        "Analyses the latents of a VAE, a noise schedule or a trained model, or compares the runs of an experiment.\n\n"
        "Usage: cocogold analyze QUESTION [OPTIONS]\n");
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        printf("  %-9s %s\n", questions[i].name, questions[i].about);
    }
    printf("\n`cocogold analyze QUESTION --help` lists its options with their defaults.\n");
    return 0;
}
