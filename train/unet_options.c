#include "train/unet_options.h"
#include "data/shard.h"
#include "model/contexts.h"
#include "util/error.h"
#include <string.h>

static const char *const losses[] = {"mse", "weighted", "focal", NULL}; // as LossKind
static const char *const pixel_losses[] = {"l1", "dice", NULL};         // as PixelLossKind

void unet_options_parse(UNetOptions *o, int argc, char **argv) {
    static const OptionsHelp help = {.about = "Fine-tunes the UNet to segment by text (Marigold's recipe).",
                                     .usage = "--model DIR --shards DIR --out DIR",
                                     .example = "--model model --shards latents --out run"};
    int target = 0;
    DiffusionOptions *d = &o->diffusion;
    *o = (UNetOptions){.diffusion = diffusion_options_default(),
                       .target = "overlay",
                       .text_template = "{}",
                       .text_memory = CONTEXTS_SHARE,
                       .loss = "mse",
                       .pixel_loss_type = "l1"};
    d->focal_gamma = 2;
    d->multires_noise = 0.9;
    d->multires_annealed = 1;
    d->validation_steps = 4;
    const Option rows[] = {
        {OPT_HEADING, "What is learned"},
        {OPT_STRING, "target", &o->target,
         "what the UNet draws: the mask painted on the picture, or a black and white mask", "KIND",
         .choices = target_names, .choice = &target},
        {OPT_STRING, "classes", &o->classes,
         "train only on these of the encoded classes; encoding with this list gives other class frequencies", "LIST"},
        {OPT_STRING, "text-template", &o->text_template,
         "prompt; {} is the class name. To draw from several, separate templates and @FILEs of synonyms by |", "TEXT"},
        {OPT_DOUBLE, "text-memory", &o->text_memory,
         "embed all texts once if they take at most this share of the free memory, else with each batch", "SHARE",
         .high = 1, .may_change = true},
        {OPT_STRING, "loss", &o->loss, "loss on latents; weighted balances object and background", "KIND",
         .choices = losses, .choice = &d->loss_kind},
        {OPT_DOUBLE, "focal-gamma", &d->focal_gamma, "exponent of the focal loss", "X", .high = 100},
        {OPT_DOUBLE, "pixel-loss", &o->pixel_loss,
         "weight of a loss on pictures, through the frozen decoder (0: none); at 512 pixels it makes a step about "
         "four times as long",
         "W", .high = 1e9},
        {OPT_STRING, "pixel-loss-type", &o->pixel_loss_type, "loss on pictures; dice compares soft masks", "KIND",
         .choices = pixel_losses, .choice = &o->pixel_loss_kind},
        {OPT_DOUBLE, "multires-noise", &d->multires_noise, "strength of multi-resolution noise (0: plain Gaussian)",
         "X", .high = 1},
        {OPT_INT, "multires-annealed", &d->multires_annealed, "1: the strength decreases with the timestep", "0|1",
         .high = 1},
        OPTIONS_END};
    diffusion_options_parse(d, argc, argv, rows, &help);
    o->target_bit = TARGET_OVERLAY + target;
    char *hole = strstr(o->text_template, "{}");
    if (!hole || o->text_template[0] == '@' || hole > o->text_template + strcspn(o->text_template, "|")) {
        die("--text-template %s: expected {} where the class name goes", o->text_template);
    }
}
