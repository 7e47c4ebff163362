// One HDF5 shard of training samples: latents, masks and where they come from. h5py can read it.
//
//   image_latent    fp16  (N, h, w, C)   posterior mean times the VAE's scaling factor, channels-last
//   target_overlay  fp16  (N, h, w, C)   the same of the picture with the mask painted on it
//   target_mask     fp16  (N, h, w, C)   the same of the black and white picture of the mask
//   mask            uint8 (N, R, ceil(R/8))  rows of packed bits as numpy.packbits makes them, R = resolution
//   class           int16 (N)            index into the attribute `classes`; -1: a text that is no class
//   image_id        int64 (N)
//   crop            int32 (N, 3)         x, y, side in the picture's own pixels
//   area            float32 (N)          the mask's share of the crop
//   text            int32 (N)            optional: index into `texts`, what the sample is asked with
//   texts           text (T)             with `text`: the distinct texts of this shard, UTF-8 padded with zeros
//   kind            uint8 (N)            optional: index into the attribute `kinds`, such as "name" and "relation"
//   dropped_image   int64 (D), dropped_reason uint8 (D)   pictures of the shard's range that gave no sample
//
// Shards without `text` ask with their class names. Shards whose attribute `targets` is "none" (captions, for training
// from text to image) hold neither targets nor masks. The attribute `text_source` names what the texts are.
//
// A chunk is one sample and carries a Fletcher-32 checksum. The file format (HDF5 1.10) checksums the metadata. Texts
// have a fixed length so that this includes them; h5py returns them as bytes. Texts of variable length and ASCII, which
// h5py writes by itself, are read too. A shard is the unit of restart: it covers
// a fixed range of pictures, is built in memory and appears whole.
//
// HDF5 may lack thread safety: one lock (h5.h) admits one thread at a time. Any error in a file ends the program with a
// sentence that names the file, the dataset or attribute, and what was expected.
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

// A sample's latents, and the bits of ShardInfo.targets: the bit of a target is also its index.
enum { LATENT_IMAGE, TARGET_OVERLAY, TARGET_MASK, LATENTS };
extern const char *const target_names[]; // from TARGET_OVERLAY on: "overlay", "mask", NULL

enum { CLASS_EXCLUDED = 2 };

// The attributes of a shard. All but `pass`, `first_picture` and `pictures` agree among the shards of a folder.
typedef struct {
    int class_count;
    char **classes;             // names of all categories of the data set, in its order
    uint8_t *sampled;           // (class_count) attribute "drawn"; 1: samples may ask for this class, CLASS_EXCLUDED:
                                // none does, and pictures that show it were left out
    char split[32], source[16]; // "train"; "panoptic" or "instances"
    char vae_sha256[65], annotations_sha256[65];
    char precision[8], version[16]; // arithmetic of the VAE: "fp32", "bf16"; version of this program
    int resolution;                 // R: side of the square crop after resizing, px
    int color[3];                   // 0..255, of the painted mask
    double alpha, outline;          // opacity of the paint; width of the outline in px at 512 px (0: exact masks)
    double absent;                  // share of samples that ask for a class that is not in the picture
    int min_side;                   // pictures with a shorter side were dropped
    int passes, shards;             // of the whole encoding
    long long seed;
    int targets;                       // TARGET_ bits
    int height, width, channels;       // h, w, C of the latents
    int pass;                          // 0..passes-1: other passes have other crops and classes
    long long first_picture, pictures; // the range of the data set's pictures (in the order of their ids) it covers
    char text_source[16];              // "captions", "phrases", "given"; empty: no texts, class names are asked with
    char texts_sha256[65];             // of the file they come from; empty: unknown
    int kind_count;                    // 0: samples have no kind
    char **kinds;                      // names
} ShardInfo;

// Whether shards with these attributes hold that latent, and its dataset's name.
bool shard_has_latent(const ShardInfo *info, int latent);
extern const char *const latent_names[LATENTS];
// How a target is painted, as options of `cocogold encode`: "--color 255,255,255 --alpha 1 --outline 0"; of
// TARGET_MASK, which is black and white, "--outline 0"; of 0 (none) "".
typedef struct {
    char text[96];
} PaintText;
PaintText shard_paint(const ShardInfo *info, int target);

ShardInfo shard_info_copy(const ShardInfo *info);
void shard_info_free(ShardInfo *info);
// Sets the class table: names are copied; sampled is set to 0.
void shard_info_classes(ShardInfo *info, int count, const char *const *names);
void shard_info_kinds(ShardInfo *info, int count, const char *const *names); // copied
bool shard_has_texts(const ShardInfo *info);                                 // "text" and "texts" are there
// The name of the first attribute in which two shards of one folder disagree, or NULL. `same`: they are two versions of
// one shard. a_text and b_text (128 bytes each) get the two values.
const char *shard_info_difference(const ShardInfo *a, const ShardInfo *b, bool same, char a_text[128],
                                  char b_text[128]);

// One sample. Reading: arrays that are NULL are skipped. Writing: targets that were not asked for are NULL.
typedef struct {
    float *latents[LATENTS]; // (h, w, C)
    uint8_t *mask;           // (R, ceil(R/8))
    int class_index;         // -1: the text is no class
    int64_t image_id;
    int32_t crop[3];
    float area;
    const char *text; // writing: where the shard has texts. Reading: what it is asked with, its class name where not
    int text_index;   // reading: index of the text in the shard's texts, or in the set's (loader.h)
    int kind;         // index into `kinds`
} ShardSample;

typedef struct ShardWriter ShardWriter;
ShardWriter *shard_begin(const char *path, const ShardInfo *info);
void shard_add(ShardWriter *writer, const ShardSample *sample);     // copies; dies if a latent is not finite in fp16
void shard_drop(ShardWriter *writer, int64_t image_id, int reason); // reason: 0..255, the data set's own table
void shard_commit(ShardWriter *writer);  // writes the file under a temporary name, fsync, rename; frees the writer
void shard_abandon(ShardWriter *writer); // frees the writer; writes nothing

// An open shard. Everything but the latents and masks is in memory; its file is closed while other shards are read and
// opened again when it is needed.
typedef struct {
    char *path;
    ShardInfo info;
    long long samples, dropped;
    int16_t *class_index; // (samples)
    int64_t *image_id;    // (samples)
    int32_t *crop;        // (samples, 3)
    float *area;          // (samples)
    int32_t *text;        // (samples), or NULL
    char **texts;         // (text_count)
    int text_count;
    uint8_t *kind;           // (samples), or NULL
    int64_t *dropped_image;  // (dropped)
    uint8_t *dropped_reason; // (dropped)
    struct timespec written; // the file's time: it may not change while the shard is open
} ShardFile;

// Opens a shard, checks the shape and type of everything in it and reads all but the latents and masks.
ShardFile shard_open(const char *path);
void shard_read(const ShardFile *shard, long long sample, ShardSample *into); // sample in 0..samples-1
void shard_close(ShardFile *shard);
