// The config.json files of a pipeline's parts (model/config.c), and the models and schedules that they describe.
#include "model/clip.h"
#include "model/schedule.h"
#include "model/unet.h"
#include "model/vae.h"
#include "tests/fuzz/fuzz.h"

const char *const fuzz_files[] = {"unet.json", "vae.json", "text_encoder.json", "scheduler_config.json", NULL};
static Device dev, plan = {.plan_only = true};
void fuzz_begin(void) { device_open(&dev, 0); }
void fuzz_died(void) {}

static void use_schedule(const ScheduleConfig *config) {
    Schedule schedule = schedule_create(config);
    int timesteps[1000], steps = schedule.T < 4 ? schedule.T : 4;
    schedule_timesteps(&schedule, steps, timesteps);
    for (int i = 0; i < steps; i++) {
        float now, before;
        schedule_step_alphas(&schedule, timesteps[i], steps, &now, &before);
    }
    schedule_warn_steps(&schedule, steps);
    schedule_first_signal(&schedule, steps);
    schedule_free(&schedule);
}

void fuzz_one(void) {
    if (fuzz_has("unet.json")) {
        UNetConfig config = unet_config_read(fuzz_path("unet.json"));
        UNet unet = unet_create(&config);
        unet_plan(&unet, 1, 16, 16, 8, true, &plan);
        unet_destroy(&unet, &dev);
    }
    if (fuzz_has("vae.json")) {
        VAEConfig config = vae_config_read(fuzz_path("vae.json"));
        VAEEncoder encoder = vae_encoder_create(&config);
        vae_encoder_plan(&encoder, 1, 64, 64, true, &plan);
        vae_destroy(&encoder, &dev);
        VAEDecoder decoder = vae_decoder_create(&config);
        vae_decoder_plan(&decoder, 1, 8, 8, true, &plan);
        vae_destroy(&decoder, &dev);
    }
    if (fuzz_has("text_encoder.json")) {
        CLIPConfig config = clip_config_read(fuzz_path("text_encoder.json"));
        CLIPText clip = clip_create(&config);
        clip_plan(&clip, 1, config.max_position_embeddings, true, &plan);
        clip_destroy(&clip, &dev);
    }
    if (fuzz_has("scheduler_config.json")) {
        ScheduleConfig config = schedule_config_read(fuzz_path("scheduler_config.json"));
        if (!schedule_hides_all(&config)) { use_schedule(&config); }
    }
}
