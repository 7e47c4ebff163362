// The two training loops, the same on every rank. Both return the exit code: 0, or 128 + signal after Ctrl-C or
// SIGTERM.
#pragma once
#include "train/options.h"
#include "kernels/runtime/comm.h"

int train_unet(const TrainOptions *options, Comm *comm, Device *dev);
int train_vae(const TrainOptions *options, Comm *comm, Device *dev);
