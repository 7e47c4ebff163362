// CLIPTextModel: from token ids to the last hidden state, after final_layer_norm. Radford et al. 2021.
#pragma once
#include "model/arena.h"
#include "model/config.h"
#include "model/params.h"

typedef struct CLIPLayers CLIPLayers;

typedef struct {
    CLIPConfig config;
    Params params; // names with the prefix "text_model."
    CLIPLayers *layers;
} CLIPText;

CLIPText clip_create(const CLIPConfig *config);
void clip_destroy(CLIPText *clip, Device *dev);

// out (B, T, hidden_size) from ids (B, T) int32 on the device, each in [0, vocab_size); T <= max_position_embeddings.
void clip_forward(CLIPText *clip, Arena *arena, floatX *out, const int *ids, int B, int T, bool save, Device *dev);
void clip_backward(CLIPText *clip, Arena *arena, const floatX *dout, float beta, Device *dev);

// Bytes of the arena for a forward (and with `train` a backward), as in unet.h.
size_t clip_plan(CLIPText *clip, int B, int T, bool train, Device *plan);
