// The two training loops. Both return the exit code: 0, or 128 + signal after Ctrl-C or SIGTERM.
#pragma once
#include "train/options.h"
#include "kernels/device.h"

int train_unet(const TrainOptions *options, Device *dev);
int train_vae(const TrainOptions *options, Device *dev);
