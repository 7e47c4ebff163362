#include "train/train.h"
#include "util/error.h"
#include <stdio.h>

// Rank 0 alone prints; sentences of die() and warn() come from all.
static void be_silent(void) {
    if (!freopen("/dev/null", "w", stdout)) { die("/dev/null: cannot be opened"); }
}

int cmd_train(int argc, char **argv) {
    TrainOptions options = train_options_parse(argc, argv);
    Launch launch = launch_detect();
    Device dev;
    Comm comm;
    comm_meet(&comm, &launch);
    device_open(&dev, comm_device_index(&comm));
    comm_open(&comm, &dev);
    if (comm.rank > 0) { be_silent(); }
    int code = options.vae ? train_vae(&options, &comm, &dev) : train_unet(&options, &comm, &dev);
    comm_close(&comm);
    device_close(&dev);
    return code;
}
