// cocogold probe: runs one module on given tensors, with PyTorch's names and layouts.
#include "model/layers.h"
#include "model/pipeline.h"
#include "model/weights.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include <stdlib.h>
#include <string.h>

// A tensor of the file, on the device. Pictures and latents (4 axes, NCHW in the file) are channels-last there, as a
// convolution's weight is.
typedef struct {
    ParamSlice slice;
    floatX *data;
} Feature;

typedef struct {
    Safetensors in;
    const char *module, *out;
    Path config;
    Feature sample;  // sample, latent
    Feature context; // encoder_hidden_states
    Feature output;  // sample, moments, last_hidden_state
    Feature doutput; // grad_output; data NULL: forward only
    Feature dsample, dcontext;
    float *timesteps; // (B) on the device
    int *ids;         // (B, T) on the device
    float *grads;     // of the parameters; NULL: forward only
    int B, T;
    Device dev;
    Arena arena;
} Probe;

// ---- Tensors -------------------------------------------------------------------------------------------------------

static Feature new_feature(Device *dev, int ndim, const int *shape) {
    Feature f = {.slice = {.ndim = ndim, .count = 1, .layout = ndim == 4 ? LAYOUT_CONV : LAYOUT_PLAIN}};
    for (int i = 0; i < ndim; i++) {
        f.slice.shape[i] = shape[i];
        f.slice.count *= (size_t)shape[i];
    }
    f.data = device_alloc(dev, f.slice.count * sizeof(floatX));
    return f;
}

// The tensor of that name; expected[i] 0 allows any size from 1. Dies if it is missing or has another shape.
static const Tensor *find_input(const Safetensors *in, const char *name, int ndim, const int *expected) {
    const Tensor *t = safetensors_find(in, name);
    if (!t) { die("%s: tensor \"%s\" is missing", in->path, name); }
    bool right = t->ndim == ndim;
    for (int i = 0; right && i < ndim; i++) {
        right = t->shape[i] >= 1 && t->shape[i] <= 1 << 24 && (!expected[i] || t->shape[i] == expected[i]);
    }
    if (right) { return t; }
    char *text = xstrdup("");
    for (int i = 0; i < ndim; i++) {
        text = expected[i] ? xprintf("%s%s%d", text, i ? ", " : "", expected[i])
                           : xprintf("%s%s%s", text, i ? ", " : "", i == 0 ? "batch" : "any");
    }
    die("%s: tensor \"%s\" should have the shape (%s)", in->path, name, text);
}

static Feature read_feature(Probe *p, const char *name, int ndim, const int *expected) {
    const Tensor *t = find_input(&p->in, name, ndim, expected);
    int shape[4];
    for (int i = 0; i < ndim; i++) { shape[i] = (int)t->shape[i]; }
    Feature f = new_feature(&p->dev, ndim, shape);
    size_t n = f.slice.count;
    float *torch_order = xmalloc(n * sizeof *torch_order), *flat = xmalloc(n * sizeof *flat);
    tensor_to_float(t, 0, t->count, torch_order);
    slice_from_torch(&f.slice, flat, torch_order);
    params_upload(&(Params){.weights = f.data, .total = n}, flat, &p->dev);
    free(torch_order);
    free(flat);
    return f;
}

static void *to_device(Device *dev, const void *host, size_t bytes) {
    void *copy = device_alloc(dev, bytes);
    device_copy(dev, copy, host, bytes, false);
    device_sync(dev);
    return copy;
}

static void read_timesteps(Probe *p) {
    const Tensor *t = find_input(&p->in, "timestep", 1, (int[]){p->B});
    int64_t *values = xmalloc((size_t)p->B * sizeof *values);
    float *host = xmalloc((size_t)p->B * sizeof *host);
    tensor_to_int64(t, 0, p->B, values);
    for (int b = 0; b < p->B; b++) { host[b] = (float)values[b]; }
    p->timesteps = to_device(&p->dev, host, (size_t)p->B * sizeof *host);
    free(host);
    free(values);
}

static void read_ids(Probe *p, const CLIPConfig *c) {
    const Tensor *t = find_input(&p->in, "input_ids", 2, (int[]){0, 0});
    p->B = (int)t->shape[0];
    p->T = (int)t->shape[1];
    if (p->T > c->max_position_embeddings) {
        die("%s: tensor \"input_ids\" has %d tokens per text, but the model takes at most %d", p->in.path, p->T,
            c->max_position_embeddings);
    }
    size_t n = (size_t)t->count;
    int64_t *values = xmalloc(n * sizeof *values);
    int *host = xmalloc(n * sizeof *host);
    tensor_to_int64(t, 0, t->count, values);
    for (size_t i = 0; i < n; i++) {
        if (values[i] < 0 || values[i] >= c->vocab_size) {
            die("%s: tensor \"input_ids\" has the id %lld, expected 0 to %d", p->in.path, (long long)values[i],
                c->vocab_size - 1);
        }
        host[i] = (int)values[i];
    }
    p->ids = to_device(&p->dev, host, n * sizeof *host);
    free(host);
    free(values);
}

// Allocates the output, and reads its gradient if the file has one.
static void make_output(Probe *p, int ndim, const int *shape) {
    p->output = new_feature(&p->dev, ndim, shape);
    if (safetensors_find(&p->in, "grad_output")) { p->doutput = read_feature(p, "grad_output", ndim, shape); }
}

// ---- Results -------------------------------------------------------------------------------------------------------

static void declare_feature(SafetensorsWriter *w, const Feature *f, const char *name) {
    if (f->data) { weights_declare_slice(w, name, &f->slice); }
}

// `flat`: the slice's values on the device.
static void write_slice(SafetensorsWriter *w, const ParamSlice *slice, const float *flat, Device *dev) {
    size_t bytes = slice->count * sizeof(float);
    float *host = xmalloc(bytes), *torch_order = xmalloc(bytes);
    device_copy(dev, host, flat, bytes, false);
    device_sync(dev);
    slice_to_torch(slice, torch_order, host);
    safetensors_write(w, torch_order, slice->count);
    free(host);
    free(torch_order);
}

static void write_feature(SafetensorsWriter *w, const Feature *f, Device *dev) {
    if (!f->data) { return; }
    float *flat = device_alloc(dev, f->slice.count * sizeof *flat);
    cast_to_float(flat, f->data, f->slice.count, dev);
    write_slice(w, &f->slice, flat, dev);
    device_free(dev, flat);
}

// Writes the output, then grad.INPUT and grad.PARAMETER.
static void write_results(Probe *p, const char *output, const char *input, const Params *params) {
    SafetensorsWriter *w = safetensors_writer(p->out);
    bool grads = p->doutput.data != NULL;
    declare_feature(w, &p->output, output);
    declare_feature(w, &p->dsample, name_of("grad.%s", input).text);
    declare_feature(w, &p->dcontext, "grad.encoder_hidden_states");
    for (int i = 0; grads && i < params->count; i++) {
        weights_declare_slice(w, name_of("grad.%s", params->slices[i].name).text, &params->slices[i]);
    }
    write_feature(w, &p->output, &p->dev);
    write_feature(w, &p->dsample, &p->dev);
    write_feature(w, &p->dcontext, &p->dev);
    for (int i = 0; grads && i < params->count; i++) {
        const ParamSlice *slice = &params->slices[i];
        write_slice(w, slice, params->grads + slice->offset, &p->dev);
    }
    safetensors_finish(w);
}

static void make_input_gradients(Probe *p) {
    if (!p->doutput.data) { return; }
    p->dsample = new_feature(&p->dev, p->sample.slice.ndim, p->sample.slice.shape);
    if (p->context.data) { p->dcontext = new_feature(&p->dev, p->context.slice.ndim, p->context.slice.shape); }
}

static void make_arena(Probe *p, size_t bytes, const Device *plan) {
    p->arena = arena_create(&p->dev, bytes);
    device_reserve_workspace(&p->dev, plan->workspace_needed);
}

// Returns whether backward runs too, with gradients of the weights.
static bool load_weights(Probe *p, Params *params, const char *folder) {
    bool train = p->doutput.data != NULL;
    weights_load(params, folder, train ? WEIGHTS_WRITE : WEIGHTS_READ, &p->dev);
    if (train) { p->grads = params_alloc_grads(params, &p->dev); }
    return train;
}

// ---- Modules -------------------------------------------------------------------------------------------------------

static void probe_unet(Probe *p, const char *folder) {
    UNetConfig config = unet_config_read(p->config.text);
    UNet unet = unet_create(&config);
    p->sample = read_feature(p, "sample", 4, (int[]){0, config.in_channels, 0, 0});
    int B = p->B = p->sample.slice.shape[0], H = p->sample.slice.shape[2], W = p->sample.slice.shape[3];
    read_timesteps(p);
    p->context = read_feature(p, "encoder_hidden_states", 3, (int[]){B, 0, config.cross_attention_dim});
    int T = p->context.slice.shape[1];
    make_output(p, 4, (int[]){B, config.out_channels, H, W});
    make_input_gradients(p);
    bool train = load_weights(p, &unet.params, folder);
    Device plan = {.plan_only = true};
    make_arena(p, unet_plan(&unet, B, H, W, T, train, &plan), &plan);
    unet_forward(&unet, &p->arena, p->output.data, p->sample.data, p->timesteps, p->context.data, B, H, W, T, train,
                 &p->dev);
    if (train) { unet_backward(&unet, &p->arena, p->dsample.data, p->dcontext.data, p->doutput.data, 0, &p->dev); }
    write_results(p, "sample", "sample", &unet.params);
    unet_destroy(&unet, &p->dev);
}

static void probe_vae(Probe *p, const char *folder) {
    VAEConfig config = vae_config_read(p->config.text);
    bool decode = strcmp(p->module, "vae.decoder") == 0;
    const char *input = decode ? "latent" : "sample", *output = decode ? "sample" : "moments";
    VAEHalf half = decode ? vae_decoder_create(&config) : vae_encoder_create(&config);
    p->sample = read_feature(p, input, 4, (int[]){0, decode ? config.latent_channels : config.in_channels, 0, 0});
    int B = p->sample.slice.shape[0], H = p->sample.slice.shape[2], W = p->sample.slice.shape[3],
        factor = vae_factor(&config);
    int OH = decode ? H * factor : vae_latent_size(&config, H), OW = decode ? W * factor : vae_latent_size(&config, W);
    if (OH < 1 || OW < 1) { die("%s: tensor \"sample\" is smaller than the VAE's factor of %d", p->in.path, factor); }
    make_output(p, 4, (int[]){B, decode ? config.out_channels : 2 * config.latent_channels, OH, OW});
    make_input_gradients(p);
    bool train = load_weights(p, &half.params, folder);
    Device plan = {.plan_only = true};
    make_arena(p, (decode ? vae_decoder_plan : vae_encoder_plan)(&half, B, H, W, train, &plan), &plan);
    (decode ? vae_decoder_forward : vae_encoder_forward)(&half, &p->arena, p->output.data, p->sample.data, B, H, W,
                                                         train, &p->dev);
    if (train) {
        (decode ? vae_decoder_backward : vae_encoder_backward)(&half, &p->arena, p->dsample.data, p->doutput.data, 0,
                                                               &p->dev);
    }
    write_results(p, output, input, &half.params);
    vae_destroy(&half, &p->dev);
}

static void probe_text_encoder(Probe *p, const char *folder) {
    CLIPConfig config = clip_config_read(p->config.text);
    CLIPText clip = clip_create(&config);
    read_ids(p, &config);
    make_output(p, 3, (int[]){p->B, p->T, config.hidden_size});
    bool train = load_weights(p, &clip.params, folder);
    Device plan = {.plan_only = true};
    make_arena(p, clip_plan(&clip, p->B, p->T, train, &plan), &plan);
    clip_forward(&clip, &p->arena, p->output.data, p->ids, p->B, p->T, train, &p->dev);
    if (train) { clip_backward(&clip, &p->arena, p->doutput.data, 0, &p->dev); }
    write_results(p, "last_hidden_state", "input_ids", &clip.params);
    clip_destroy(&clip, &p->dev);
}

static const struct {
    const char *folder;
    void (*run)(Probe *p, const char *folder);
} modules[] = {{"unet", probe_unet}, {"vae", probe_vae}, {"vae", probe_vae}, {"text_encoder", probe_text_encoder}};
static const char *const module_names[] = {"unet", "vae.encoder", "vae.decoder", "text_encoder", NULL};

int cmd_probe(int argc, char **argv) {
    char *model = NULL, *in = NULL, *out = NULL;
    Option table[] = {
        {OPT_STRING, "model", &model, "model directory; only the module's folder is read", "DIR",
         .required = "a model directory"},
        {OPT_STRING, "in", &in, "input tensors", "FILE.safetensors", .required = "a safetensors file of inputs"},
        {OPT_STRING, "out", &out, "output tensors (F32)", "FILE.safetensors",
         .required = "the safetensors file to write"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about =
            "Runs one module on given tensors, with PyTorch's names and layouts (NCHW). It reads sample, timestep "
            "(I64, one per\nsample) and encoder_hidden_states (unet), sample (vae.encoder), latent (vae.decoder) or "
            "input_ids (I64, text_encoder).\nIt writes sample (unet, vae.decoder), moments (vae.encoder) or "
            "last_hidden_state (text_encoder). If the input has\ngrad_output, it also writes grad.INPUT and "
            "grad.PARAMETER.",
        .usage = "unet|vae.encoder|vae.decoder|text_encoder --model DIR --in FILE --out FILE",
        .example = "unet --model model --in inputs.safetensors --out outputs.safetensors"};
    const char **arguments = options_parse(argc, argv, table, &help, 1);
    options_require(arguments[0], "the module", "unet, vae.encoder, vae.decoder or text_encoder");
    int module = options_choice(arguments[0], "module", module_names);
    want_output("--out", out);
    Path folder = path_of("%s/%s", model, modules[module].folder);
    Probe p = {.module = module_names[module], .out = out, .config = path_of("%s/config.json", folder.text)};
    device_open(&p.dev, 0);
    p.in = safetensors_open(in);
    modules[module].run(&p, folder.text);
    arena_destroy(&p.arena);
    const Feature *features[] = {&p.sample, &p.context, &p.output, &p.doutput, &p.dsample, &p.dcontext};
    for (int i = 0; i < 6; i++) { device_free(&p.dev, features[i]->data); }
    device_free(&p.dev, p.timesteps);
    device_free(&p.dev, p.ids);
    device_free(&p.dev, p.grads);
    safetensors_close(&p.in);
    device_close(&p.dev);
    return 0;
}
