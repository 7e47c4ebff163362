#include "train/train.h"

int cmd_train(int argc, char **argv) {
    TrainOptions options = train_options_parse(argc, argv);
    Device dev;
    device_open(&dev, 0);
    int code = options.vae ? train_vae(&options, &dev) : train_unet(&options, &dev);
    device_close(&dev);
    return code;
}
