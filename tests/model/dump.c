// What the reference tests compare that no command prints: token ids, the noise schedule, a DDIM trajectory.
//   dump tokens FOLDER LENGTH < texts, each ended by a zero byte     ids, one text a line
//   dump schedule FILE STEPS        alphas_cumprod; timesteps; alpha before and after each step
//   dump ddim FILE STEPS N          N values from stdin (floats) sampled with the model output 0.5 x + 0.01 t / T
#include "kernels/kernels.h"
#include "model/schedule.h"
#include "model/tokenizer.h"
#include "util/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void dump_tokens(const char *folder, int length) {
    Tokenizer *t = tokenizer_open(folder);
    if (length == 0) { length = tokenizer_length(t); }
    int *ids = xmalloc((size_t)length * sizeof *ids);
    char *text = NULL;
    size_t room = 0;
    while (getdelim(&text, &room, 0, stdin) > 0) {
        tokenizer_encode(t, text, ids, length);
        for (int i = 0; i < length; i++) { printf("%d%c", ids[i], i + 1 < length ? ' ' : '\n'); }
    }
    free(text);
    free(ids);
    tokenizer_close(t);
}

static Schedule read_schedule(const char *path) {
    ScheduleConfig config = schedule_config_read(path);
    return schedule_create(&config);
}

static void dump_schedule(const char *path, int steps) {
    Schedule s = read_schedule(path);
    int *timesteps = xmalloc((size_t)steps * sizeof *timesteps);
    schedule_timesteps(&s, steps, timesteps);
    for (int t = 0; t < s.T; t++) { printf("%.9g%c", s.alphas_cumprod[t], t + 1 < s.T ? ' ' : '\n'); }
    for (int i = 0; i < steps; i++) { printf("%d%c", timesteps[i], i + 1 < steps ? ' ' : '\n'); }
    for (int i = 0; i < steps; i++) {
        float before, after;
        schedule_step_alphas(&s, timesteps[i], steps, &before, &after);
        printf("%.9g %.9g\n", before, after);
    }
    free(timesteps);
    schedule_free(&s);
}

static void dump_ddim(const char *path, int steps, int n) {
    Device dev;
    device_open(&dev, 0);
    Schedule s = read_schedule(path);
    int *timesteps = xmalloc((size_t)steps * sizeof *timesteps);
    float *host = xmalloc((size_t)n * sizeof *host), *out_host = xmalloc((size_t)n * sizeof *host);
    float *x = device_alloc(&dev, (size_t)n * sizeof *x), *out = device_alloc(&dev, (size_t)n * sizeof *out);
    floatX *output = device_alloc(&dev, (size_t)n * sizeof *output);
    if (fread(host, sizeof *host, (size_t)n, stdin) != (size_t)n) { die("stdin: expected %d floats", n); }
    schedule_timesteps(&s, steps, timesteps);
    for (int i = 0; i < steps; i++) {
        float before, after;
        schedule_step_alphas(&s, timesteps[i], steps, &before, &after);
        for (int k = 0; k < n; k++) { out_host[k] = 0.5f * host[k] + 0.01f * (float)timesteps[i] / (float)s.T; }
        device_copy(&dev, x, host, (size_t)n * sizeof *x, false);
        device_copy(&dev, out, out_host, (size_t)n * sizeof *x, false);
        cast_to_floatX(output, out, (size_t)n, &dev);
        ddim_step(x, output, before, after, s.config.prediction, 1, n, &dev);
        device_copy(&dev, host, x, (size_t)n * sizeof *x, false);
        device_sync(&dev);
    }
    for (int k = 0; k < n; k++) { printf("%.9g\n", host[k]); }
    device_free(&dev, x), device_free(&dev, out), device_free(&dev, output);
    free(host), free(out_host), free(timesteps);
    schedule_free(&s);
    device_close(&dev);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "tokens") == 0) {
        dump_tokens(argv[2], atoi(argv[3]));
    } else if (argc == 4 && strcmp(argv[1], "schedule") == 0) {
        dump_schedule(argv[2], atoi(argv[3]));
    } else if (argc == 5 && strcmp(argv[1], "ddim") == 0) {
        dump_ddim(argv[2], atoi(argv[3]), atoi(argv[4]));
    } else {
        die("usage: dump tokens FOLDER LENGTH | schedule FILE STEPS | ddim FILE STEPS N");
    }
    return 0;
}
