// TensorBoard event files: a log of length-prefixed records (TFRecord) of Event messages
// (tensorflow/core/util/event.proto).
#pragma once
#include <stddef.h>

typedef struct TensorBoard TensorBoard;

// Makes the folder and starts FOLDER/events.out.tfevents.TIME.cocogold.PID. Records that the run (re)starts after
// `first_step`: TensorBoard then drops later points of older files.
TensorBoard *tensorboard_open(const char *folder, int first_step);
void tensorboard_scalar(TensorBoard *board, const char *tag, int step, double value);
// A picture as the bytes of a PNG file of width x height pixels.
void tensorboard_image(TensorBoard *board, const char *tag, int step, int width, int height, const void *png,
                       size_t size);
void tensorboard_close(TensorBoard *board);
