// cocogold analyze starts: what a model of Marigold's kind reads from the start of sampling.
#include "eval/report/starts_page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"

int analyze_starts(int argc, char **argv, const char *command) {
    AnswerOptions answer = ANSWER_OPTIONS_DEFAULT;
    char **pictures = NULL, *maps = NULL, *kind_name = "depth", *text = "", *out = "starts";
    int kind = MAP_DEPTH, pad_text = 0, resolution = 0, resamples = 1000;
    long long seed = 0;
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        MODEL_ROWS(answer),
        {OPT_LIST, "images", &pictures, "picture, folder of pictures, or @FILE with a path a line (may be repeated)",
         "DIR", .required = "pictures"},
        {OPT_STRING, "maps", &maps, "folder with the true map of each picture, under the same name and of its size",
         "DIR", .required = "a folder of maps"},
        {OPT_STRING, "kind", &kind_name,
         "depth: grey maps of 8 or 16 bits, 0 where nothing was measured; picture: any with three channels", "KIND",
         .choices = map_kind_names, .choice = &kind},
        MAX_PIXELS_ROWS,
        {OPT_STRING, "out", &out, "folder for starts.html, starts.json and pictures.csv", "DIR"},
        {OPT_HEADING, "Sampling"},
        {OPT_STRING, "text", &text, "text of all pictures; Marigold's is empty", "TEXT"},
        {OPT_FLAG, "pad-text", &pad_text,
         "pad the text to the tokenizer's length, as Stable Diffusion and `cocogold train` do and Marigold does not"},
        STEPS_ROWS(answer),
        SCHEDULE_ROWS(answer.schedule),
        {OPT_INT, "resolution", &resolution, "longer side of the model's input (0: the training side)", "PIXELS",
         .high = MOST_RESOLUTION},
        {OPT_LONG, "seed", &seed, "seed of the noise and the bootstrap", "N"},
        {OPT_INT, "bootstrap", &resamples, "bootstrap resamples for the 95% intervals (over pictures)", "N",
         .high = 1e6},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Samples from noise and from noise that holds a little of the true map: what does a model read there?",
        .usage = "--model DIR --images DIR --maps DIR [--out DIR]",
        .example = "--model marigold-depth-v1-0 --images nyu/rgb --maps nyu/depth --steps 10"};
    options_parse(argc, argv, table, &help, 0);
    want_folder(out);
    if (!folder_exists(maps)) { die("--maps %s: is not a folder", maps); }
    PictureList list = pictures_find("--images", (const char *const *)pictures, NULL);
    ModelSettings settings;
    settings_read(&settings, answer.model);
    Device dev;
    device_open(&dev, 0);
    int steps = answer.steps ? answer.steps : settings.steps, parts = PART_VAE_ENCODER | PART_VAE_DECODER | PART_TEXT;
    Pipeline pipeline = pipeline_open_sampling(answer.model, parts, answer.ema, &answer.schedule, steps, &dev);
    StartAnalysis a = {.pipeline = &pipeline, .pictures = &list, .maps = maps, .kind = (MapKind)kind, .text = text};
    a.pad_text = pad_text, a.seed = (uint64_t)seed;
    a.steps = steps;
    a.side = pipeline_resolution(&pipeline, resolution ? resolution : settings.resolution);
    make_folders(out);
    int count;
    StartItem *items = starts_analyze(&a, &count, &dev);
    if (!items) { die("--images: none of %d pictures could be used with a map of %s", list.count, maps); }
    StartRecord record = {.analysis = &a, .command = command, .device = device_name(&dev), .resamples = resamples};
    record.left_out = list.count - count;
    starts_report(&record, items, count, out);
    starts_free(items, count);
    pipeline_close(&pipeline, &dev);
    device_close(&dev);
    settings_free(&settings);
    pictures_free(&list);
    return 0;
}
