// What an encoding holds and what it dropped: a paragraph on stdout and SPLIT.json beside the shards.
#pragma once
#include "data/coco.h"
#include "data/loader.h"

void shard_report(const ShardSet *set, const Coco *coco); // coco: what the shards were made of
