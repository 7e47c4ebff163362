// The attributes of a shard file: writing and reading. Between h5_enter and h5_leave.
#pragma once
#include "data/h5.h"
#include "data/shard.h"

void shard_info_write(const ShardInfo *info, hid_t file);
ShardInfo shard_info_read(const char *path, hid_t file); // h, w, C stay 0: they follow from the datasets
