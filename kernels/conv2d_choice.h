// Which blocks conv2d.cu takes on a card. A header of its own, so that a test can ask for cards that are not there. The
// choice changes no bits: every block adds up an element's products in the same order.
#pragma once
#include <stdbool.h>
#include <stddef.h>

typedef struct {
    int processors; // SMs
    size_t shared;  // bytes of shared memory of one, of which each block reserves 1 KB
} ConvCard;

// A block of four warps leaves one warp to each of an SM's schedulers, which idles whenever that warp waits for shared
// memory or at a barrier. Two blocks to an SM prevent this. Where two do not fit (100 KB of shared memory: sm_86,
// sm_89, sm_120), the block has eight warps. Each of them has half of the rows or columns of the four, so that the
// block reads more shared memory: per 16 steps of the inner dimension of a tile of 128 x 160, 28 KB instead of 18. The
// tensor cores of these cards need longer than that; those of sm_80 and sm_90 do not (bench/LOG.md), and keep four
// warps even if there are fewer blocks than SMs.
static inline bool conv2d_eight_warps(size_t block_bytes, ConvCard card) {
    return 2 * (block_bytes + 1024) > card.shared;
}

// Whether tiles of 160 x 160 are faster than tiles of 128 x 160: compares the number of rounds on the card's SMs, times
// the time of a round. For SD2's 2 x 64 x 64 pixels and 320 channels, an A100 (108 SMs) then needs one round of 104
// blocks, instead of two rounds for 128 blocks.
static inline bool conv2d_tall(int tall_blocks, int blocks, ConvCard card) {
    const int tall_rounds = (tall_blocks + card.processors - 1) / card.processors;
    const int rounds = (blocks + card.processors - 1) / card.processors;
    return 160 * tall_rounds < 128 * rounds;
}
