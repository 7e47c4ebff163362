// The noise schedule and DDIM's timesteps, on the host, as diffusers' DDIMScheduler computes them.
#pragma once
#include "model/config.h"
#include <math.h>

typedef struct {
    ScheduleConfig config;
    int T;                     // num_train_timesteps
    float *betas;              // (T) on the host
    float *alphas_cumprod;     // (T) on the host; with terminal_signal 0 (Lin et al. 2023) the last one is exactly 0
    float final_alpha_cumprod; // "previous" of the last step: 1 with set_alpha_to_one, else alphas_cumprod[0]
} Schedule;

// The model predicts epsilon and the last alpha is zero: there the noise says nothing about the picture.
bool schedule_hides_all(const ScheduleConfig *config);
// Not for a schedule that hides all.
Schedule schedule_create(const ScheduleConfig *config);
void schedule_free(Schedule *schedule);

// timesteps[0..steps) in the order of sampling (noisiest first) by the configured spacing; dies unless 1 <= steps <= T.
// trailing: round(T - i T / steps) - 1; leading: i (T / steps) + steps_offset, reversed; linspace: round(linspace(0, T
// - 1)).
void schedule_timesteps(const Schedule *schedule, int steps, int *timesteps);
// alpha_cumprod before and after the DDIM step at timestep t: the previous timestep is t - T / steps (integers).
void schedule_step_alphas(const Schedule *schedule, int t, int steps, float *alpha_t, float *alpha_prev);

// What a command line changes of a model's schedule.
typedef struct {
    char *spacing_name;
    int prediction, spacing; // Prediction, TimestepSpacing; -1: as the model has it
    double terminal_signal;  // AS_BETAS, 0, or from LEAST_ to MOST_TERMINAL_SIGNAL; NaN: as the model has it
} ScheduleChange;
#define SCHEDULE_AS_MODEL                                                                                              \
    (ScheduleChange) { .prediction = -1, .spacing = -1, .terminal_signal = NAN }
// Option rows (util/options.h) of a ScheduleChange.
// clang-format off
#define SCHEDULE_ROWS(change) \
    {OPT_STRING, "timestep-spacing", &(change).spacing_name, \
     "spacing of the sampling timesteps (default: as in the model's scheduler_config.json)", "KIND", \
     .choices = timestep_spacing_names, .choice = &(change).spacing}, \
    {OPT_DOUBLE, "terminal-signal", &(change).terminal_signal, \
     "share of the target in the noisiest training sample, sqrt(alphas_cumprod) at the last timestep; 0: none " \
     "(zero terminal SNR), -1: as the betas give it (default: as in the model)", \
     "A", .low = -1, .high = MOST_TERMINAL_SIGNAL}
// clang-format on
bool schedule_changes(const ScheduleChange *change);
// Replaces the schedule; dies if it then hides all, or if the signal is none of those above.
void schedule_change(Schedule *schedule, const ScheduleChange *change);
// Says on stderr that sampling begins where training samples hold more of the target than at the last timestep: few
// leading timesteps, or one step of linspace.
void schedule_warn_steps(const Schedule *schedule, int steps);
// The first of `steps` timesteps.
int schedule_first_timestep(const Schedule *schedule, int steps);
// The share of the target, sqrt(alphas_cumprod), in a training sample at the first of the `steps` timesteps.
float schedule_first_signal(const Schedule *schedule, int steps);
