#include "model/schedule.h"
#include "util/error.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

// betas (T), equally spaced from beta_start to beta_end; with "scaled_linear" (Rombach et al.) their square roots are.
// Computed in float from both ends towards the middle, which gives torch.linspace's bits.
static void fill_betas(const ScheduleConfig *c, float *betas) {
    int T = c->num_train_timesteps;
    float first = (float)(c->scaled_linear ? sqrt(c->beta_start) : c->beta_start);
    float last = (float)(c->scaled_linear ? sqrt(c->beta_end) : c->beta_end);
    float step = (last - first) / (float)(T - 1);
    for (int t = 0; t < T; t++) {
        float x = t < T / 2 ? first + step * (float)t : last - step * (float)(T - 1 - t);
        betas[t] = c->scaled_linear ? x * x : x;
    }
}

static void cumulative_product(float *out, const float *betas, int T) {
    double product = 1;
    for (int t = 0; t < T; t++) {
        product *= (double)(1.0f - betas[t]);
        out[t] = (float)product;
    }
}

// Lin et al. 2023, "Common diffusion noise schedules and sample steps are flawed", algorithm 1, whose last value is 0:
// sqrt(abar) is shifted and scaled so that the last one is `signal` and the first stays. Converts to betas in between,
// as diffusers does.
static void rescale(float *betas, float *alphas_cumprod, int T, float signal) {
    float first = sqrtf(alphas_cumprod[0]), last = sqrtf(alphas_cumprod[T - 1]), before = 1;
    for (int t = 0; t < T; t++) {
        float root = (sqrtf(alphas_cumprod[t]) - last) * ((first - signal) / (first - last)) + signal;
        float alpha_bar = root * root;
        betas[t] = 1.0f - (t ? alpha_bar / before : alpha_bar);
        before = alpha_bar;
    }
    cumulative_product(alphas_cumprod, betas, T);
}

bool schedule_hides_all(const ScheduleConfig *config) {
    return config->terminal_signal == 0 && config->prediction == PREDICT_EPSILON;
}

Schedule schedule_create(const ScheduleConfig *config) {
    Schedule s = {.config = *config, .T = config->num_train_timesteps};
    assert(!schedule_hides_all(config));
    s.betas = xmalloc((size_t)s.T * sizeof *s.betas);
    s.alphas_cumprod = xmalloc((size_t)s.T * sizeof *s.alphas_cumprod);
    fill_betas(config, s.betas);
    cumulative_product(s.alphas_cumprod, s.betas, s.T);
    if (config->terminal_signal != AS_BETAS) {
        rescale(s.betas, s.alphas_cumprod, s.T, (float)config->terminal_signal);
    }
    s.final_alpha_cumprod = config->set_alpha_to_one ? 1.0f : s.alphas_cumprod[0];
    return s;
}

void schedule_free(Schedule *schedule) {
    free(schedule->betas);
    free(schedule->alphas_cumprod);
    *schedule = (Schedule){0};
}

void schedule_timesteps(const Schedule *schedule, int steps, int *timesteps) {
    int T = schedule->T, offset = schedule->config.steps_offset;
    if (steps < 1 || steps > T) { die("the number of sampling steps is %d, expected 1 to %d", steps, T); }
    // rint rounds halves to even, as numpy does
    double ratio = (double)T / steps, down = (T - ratio) - T, up = steps > 1 ? (double)(T - 1) / (steps - 1) : 0;
    for (int i = 0; i < steps; i++) {
        switch (schedule->config.spacing) {
        case SPACING_TRAILING:
            timesteps[i] = (int)rint(T + i * down) - 1;
            break;
        case SPACING_LEADING:
            timesteps[i] = (steps - 1 - i) * (T / steps) + offset;
            break;
        case SPACING_LINSPACE:
            timesteps[i] = (int)rint((steps - 1 - i) * up);
            break;
        }
    }
    if (timesteps[0] >= T) {
        die("%d sampling steps begin at timestep %d (steps_offset %d, spacing \"leading\"), but the last is %d: "
            "expected fewer steps, or trailing timesteps (--timestep-spacing trailing)",
            steps, timesteps[0], offset, T - 1);
    }
}

void schedule_step_alphas(const Schedule *schedule, int t, int steps, float *alpha_t, float *alpha_prev) {
    assert(t >= 0 && t < schedule->T && steps >= 1);
    int previous = t - schedule->T / steps;
    *alpha_t = schedule->alphas_cumprod[t];
    *alpha_prev = previous >= 0 ? schedule->alphas_cumprod[previous] : schedule->final_alpha_cumprod;
}

bool schedule_changes(const ScheduleChange *c) {
    return c->prediction >= 0 || c->spacing >= 0 || !isnan(c->terminal_signal);
}

void schedule_change(Schedule *schedule, const ScheduleChange *c) {
    ScheduleConfig config = schedule->config;
    double signal = c->terminal_signal;
    if (signal < LEAST_TERMINAL_SIGNAL && signal != 0 && signal != AS_BETAS) {
        die("--terminal-signal %g: expected -1, 0, or a value from %g to %g", signal, LEAST_TERMINAL_SIGNAL,
            MOST_TERMINAL_SIGNAL);
    }
    if (c->prediction >= 0) { config.prediction = (Prediction)c->prediction; }
    if (c->spacing >= 0) { config.spacing = (TimestepSpacing)c->spacing; }
    if (!isnan(signal)) { config.terminal_signal = signal; }
    if (schedule_hides_all(&config)) {
        die("prediction_type \"epsilon\" cannot be used with zero terminal SNR (--terminal-signal 0): at the last "
            "timestep the noise says nothing about the picture, expected v_prediction or sample, or another "
            "--terminal-signal");
    }
    schedule_free(schedule);
    *schedule = schedule_create(&config);
}

int schedule_first_timestep(const Schedule *schedule, int steps) {
    int *timesteps = xmalloc((size_t)steps * sizeof *timesteps);
    schedule_timesteps(schedule, steps, timesteps);
    int first = timesteps[0];
    free(timesteps);
    return first;
}

// Sampling begins with noise alone, but at its first timestep training samples hold a share of the target. That is a
// fault of the number of steps by what exceeds the share at the last timestep, which every sampling has. 0.03 more:
// with Stable Diffusion's betas, fewer than 18 leading steps are named, 20 (0.022), 25 and 50 (0.008) are not.
void schedule_warn_steps(const Schedule *schedule, int steps) {
    const float most = 0.03f;
    float least = sqrtf(schedule->alphas_cumprod[schedule->T - 1]), signal = schedule_first_signal(schedule, steps);
    if (signal - least <= most) { return; }
    warn("with %s timesteps, sampling in %d step%s begins at timestep %d of %d, where training samples are %.0f%% "
         "target (at the last timestep %.0f%%): expected more steps, or trailing timesteps (--timestep-spacing "
         "trailing)",
         timestep_spacing_names[schedule->config.spacing], steps, steps > 1 ? "s" : "",
         schedule_first_timestep(schedule, steps), schedule->T, 100 * signal, 100 * least);
}

float schedule_first_signal(const Schedule *schedule, int steps) {
    return sqrtf(schedule->alphas_cumprod[schedule_first_timestep(schedule, steps)]);
}
