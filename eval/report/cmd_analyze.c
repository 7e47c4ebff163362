// cocogold analyze QUESTION: latents | arms.
#include "eval/report/analyze.h"
#include "util/error.h"
#include "util/options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv, const char *command);
    const char *about;
} questions[] = {
    {"latents", analyze_latents, "how well a VAE's latents tell good masks from bad ones"},
    {"arms", analyze_arms, "what the runs of an experiment say together (train/experiments/failure_and_fix.sh)"},
};

int cmd_analyze(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        if (strcmp(name, questions[i].name) != 0) { continue; }
        char *command = options_command(argc, argv);
        argv[1] = xprintf("analyze %s", name);
        int code = questions[i].run(argc - 1, argv + 1, command);
        free(command);
        return code;
    }
    if (strcmp(name, "--help") != 0 && strcmp(name, "-h") != 0) {
        die("analyze: %s (see cocogold analyze --help)",
            name[0] == '-' ? xprintf("%s: unknown option", name) : "expected latents or arms");
    }
    printf("Asks the latents of a VAE, or the runs of an experiment.\n\nUsage: cocogold analyze QUESTION [OPTIONS]\n");
    for (size_t i = 0; i < sizeof questions / sizeof *questions; i++) {
        printf("  %-9s %s\n", questions[i].name, questions[i].about);
    }
    printf("\n`cocogold analyze QUESTION --help` lists its options with their defaults.\n");
    return 0;
}
