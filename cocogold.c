// Entry point: `cocogold COMMAND ...`. Each command is a file cmd_COMMAND.c in the folder of its subject.
#include "util/error.h"
#include "util/interrupt.h"
#include "util/options.h"
#include "util/threads.h"
#include <stdio.h>
#include <string.h>

int cmd_init(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_preview(int argc, char **argv);
int cmd_encode(int argc, char **argv);
int cmd_train(int argc, char **argv);
int cmd_train_vae(int argc, char **argv);
int cmd_pretrain(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_analyze(int argc, char **argv);
int cmd_segment(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_bench(int argc, char **argv);

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"init", cmd_init, "write a model directory: random (mini, sd1, sd2), or from Stable Diffusion"},
    {"synth", cmd_synth, "draw a procedural data set in COCO's layout"},
    {"stats", cmd_stats, "count the classes of a data set: table and bar chart"},
    {"preview", cmd_preview, "draw a contact sheet of training samples: image, mask, target, text"},
    {"encode", cmd_encode, "turn pictures and masks into HDF5 shards of latents"},
    {"train", cmd_train, "fine-tune the UNet to segment by text"},
    {"train-vae", cmd_train_vae, "train the VAE of a small model on pictures"},
    {"pretrain", cmd_pretrain, "train the UNet from text to image"},
    {"generate", cmd_generate, "draw pictures from a text"},
    {"eval", cmd_eval, "measure IoU on seen and unseen classes"},
    {"segment", cmd_segment, "segment pictures by text"},
    {"analyze", cmd_analyze,
     "analyze the latents of a VAE, a noise schedule, the start of sampling, or the runs of an experiment"},
    {"report", cmd_report, "make one HTML page from runs and their evaluations"},
    {"probe", cmd_probe, "run one module on given tensors, forward and backward"},
    {"bench", cmd_bench, "time kernels and whole steps against the roofline"},
};

static void usage(FILE *out) {
    fprintf(out, "cocogold segments pictures by text with latent diffusion.\n\nUsage: cocogold COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].about);
    }
    fprintf(out, "\n`cocogold COMMAND --help` lists a command's options with their defaults.\n");
}

int main(int argc, char **argv) {
    error_begin();
    threads_start(argv);
    interrupt_start();
    if (argc < 2) {
        usage(stderr);
        return 1;
    }
    if (options_asks_help(argv[1])) {
        interrupt_listing();
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) { return commands[i].run(argc - 1, argv + 1); }
    }
    fprintf(stderr, "cocogold: unknown command \"%s\" (see cocogold --help)\n", argv[1]);
    return 1;
}
