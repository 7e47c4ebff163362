// The noise schedule and DDIM's timesteps, on the host, as diffusers' DDIMScheduler computes them.
#pragma once
#include "model/config.h"

typedef struct {
    ScheduleConfig config;
    int T;                     // num_train_timesteps
    float *alphas_cumprod;     // (T) on the host; with zero-SNR rescaling (Lin et al. 2023) the last one is exactly 0
    float final_alpha_cumprod; // "previous" of the last step: 1 with set_alpha_to_one, else alphas_cumprod[0]
} Schedule;

// Dies if the model predicts epsilon and the last alpha is zero.
Schedule schedule_create(const ScheduleConfig *config);
void schedule_free(Schedule *schedule);

// timesteps[0..steps) in the order of sampling (noisiest first) by the configured spacing; dies unless 1 <= steps <= T.
// trailing: round(T - i T / steps) - 1; leading: i (T / steps) + steps_offset, reversed; linspace: round(linspace(0, T
// - 1)).
void schedule_timesteps(const Schedule *schedule, int steps, int *timesteps);
// alpha_cumprod before and after the DDIM step at timestep t: the previous timestep is t - T / steps (integers).
void schedule_step_alphas(const Schedule *schedule, int t, int steps, float *alpha_t, float *alpha_prev);
