// One procedural scene: background, objects from back to front, sensor noise. Lengths are given for a 64-pixel picture
// and scale with its shorter side.
#include "data/synth.h"
#include "util/error.h"
#include "util/philox.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float r, g, b; // 0..1
} Rgb;

enum { CIRCLE, SQUARE, TRIANGLE, CROSS, PERSON };

// clang-format off
static const char *const class_names[SYNTH_CLASSES] = {
    "person",
    "red circle",    "red square",    "red triangle",    "red cross",
    "green circle",  "green square",  "green triangle",  "green cross",
    "blue circle",   "blue square",   "blue triangle",   "blue cross",
    "yellow circle", "yellow square", "yellow triangle", "yellow cross",
    "purple circle", "purple square", "purple triangle", "purple cross",
    "orange circle", "orange square", "orange triangle", "orange cross",
    "cyan circle",   "cyan square",   "cyan triangle",   "cyan cross",
    "pink circle",   "pink square",   "pink triangle",   "pink cross",
    "brown circle",  "brown square",  "brown triangle",  "brown cross",
    "black circle",  "black square",  "black triangle",  "black cross",
};
// clang-format on
static const Rgb object_colors[SYNTH_COLORS] = {
    {0.84f, 0.13f, 0.14f}, {0.16f, 0.62f, 0.22f}, {0.15f, 0.30f, 0.84f}, {0.92f, 0.83f, 0.15f}, {0.55f, 0.20f, 0.68f},
    {0.95f, 0.50f, 0.10f}, {0.15f, 0.78f, 0.80f}, {0.95f, 0.55f, 0.75f}, {0.45f, 0.25f, 0.10f}, {0.06f, 0.06f, 0.07f}};
static const int held_out_shape[SYNTH_COLORS] = {CIRCLE, SQUARE,   TRIANGLE, CROSS,  CIRCLE,
                                                 SQUARE, TRIANGLE, CROSS,    CIRCLE, SQUARE};

const char *synth_class_name(int class_index) {
    assert(class_index >= 0 && class_index < SYNTH_CLASSES);
    return class_names[class_index];
}

int synth_classes(const SynthOptions *options) { return 1 + options->colors * SYNTH_SHAPES; }

static int class_of(int color, int shape) { return 1 + color * SYNTH_SHAPES + shape; }
static int color_of(int class_index) { return (class_index - 1) / SYNTH_SHAPES; }
static int shape_of(int class_index) { return class_index == 0 ? PERSON : (class_index - 1) % SYNTH_SHAPES; }

bool synth_held_out(int class_index) {
    return class_index > 0 && shape_of(class_index) == held_out_shape[color_of(class_index)];
}

static float between(Random *random, float low, float high) { return low + (high - low) * random_uniform(random); }
static bool chance(Random *random, float p) { return random_uniform(random) < p; }
static float mix(float a, float b, float t) { return a + (b - a) * t; }
static Rgb mix_rgb(Rgb a, Rgb b, float t) { return (Rgb){mix(a.r, b.r, t), mix(a.g, b.g, t), mix(a.b, b.b, t)}; }
static Rgb scale_rgb(Rgb a, float s) { return (Rgb){a.r * s, a.g * s, a.b * s}; }

// Colours that no object has: grey, earth, dull sky.
static Rgb muted(Random *random) {
    float grey = between(random, 0.22f, 0.72f), spread = 0.10f;
    return (Rgb){grey + between(random, -spread, spread), grey + between(random, -spread, spread),
                 grey + between(random, -spread, spread)};
}

static Rgb jittered(Rgb color, Random *random, float spread) {
    return (Rgb){color.r + between(random, -spread, spread), color.g + between(random, -spread, spread),
                 color.b + between(random, -spread, spread)};
}

// Smooth random surface: values in [-1, 1] on a lattice `cell` pixels wide, interpolated.
typedef struct {
    int columns;
    float cell, *values;
} Texture;

static Texture texture_new(Random *random, int width, int height, float cell) {
    Texture t = {.columns = (int)((float)width / cell) + 2, .cell = cell};
    int rows = (int)((float)height / cell) + 2;
    t.values = xmalloc((size_t)t.columns * (size_t)rows * sizeof *t.values);
    for (int i = 0; i < t.columns * rows; i++) { t.values[i] = between(random, -1, 1); }
    return t;
}

static float texture_at(const Texture *t, int x, int y) {
    float u = (float)x / t->cell, v = (float)y / t->cell;
    int column = (int)u, row = (int)v;
    float a = u - (float)column, b = v - (float)row;
    a *= a * (3 - 2 * a); // smoothstep
    b *= b * (3 - 2 * b);
    const float *p = t->values + row * t->columns + column;
    return mix(mix(p[0], p[1], a), mix(p[t->columns], p[t->columns + 1], a), b);
}

typedef struct {
    int class_index, full_area; // full_area: its pixels if nothing hid or cut it
    float x, y, radius, angle;
    Rgb colors[3];                  // a person's skin, shirt, trousers; else only the first
    float light, light_x, light_y;  // shading across the object: 1 + light * (light_x * u + light_y * v)
    float stripes, stripe_u, phase; // fine texture
} Object;

// The part of a shape at the point (u, v), in radii from its centre: 0 is none, k > 0 has the colour colors[k - 1].
static int part_at(int shape, float u, float v) {
    float au = fabsf(u), av = fabsf(v);
    switch (shape) {
    case CIRCLE:
        return u * u + v * v <= 1;
    case SQUARE:
        return au <= 0.86f && av <= 0.86f;
    case TRIANGLE:
        return v <= 0.6f && v >= 1.732f * au - 1.1f;
    case CROSS:
        return (au <= 0.33f && av <= 1) || (av <= 0.33f && au <= 1);
    default:
        if (u * u + (v + 0.7f) * (v + 0.7f) <= 0.09f) { return 1; }               // head
        if (au <= 0.36f && v >= -0.42f && v <= 0.28f) { return 2; }               // shirt
        if (au > 0.36f && au <= 0.54f && v >= -0.40f && v <= 0.22f) { return 1; } // arms
        if (au >= 0.06f && au <= 0.34f && v > 0.28f && v <= 1) { return 3; }      // legs
        return 0;
    }
}

// scale: of the radius, which is 6 to 16 pixels otherwise.
static Object object_new(Random *random, int class_index, float scale) {
    static const Rgb skins[] = {{0.88f, 0.70f, 0.58f}, {0.72f, 0.52f, 0.40f}, {0.45f, 0.31f, 0.24f}};
    float radius = chance(random, 0.2f) ? between(random, 6, 8.5f) : between(random, 9, 16);
    Object o = {.class_index = class_index, .radius = radius * scale};
    if (class_index == 0) {
        o.colors[0] = jittered(skins[random_below(random, 3)], random, 0.04f);
        o.colors[1] = muted(random);
        o.colors[2] = scale_rgb(muted(random), 0.6f);
    } else {
        o.colors[0] = jittered(object_colors[color_of(class_index)], random, 0.05f);
        o.angle = between(random, -0.3f, 0.3f);
    }
    float direction = between(random, 0, 6.2831853f);
    o.light = between(random, 0.05f, 0.22f);
    o.light_x = cosf(direction);
    o.light_y = sinf(direction);
    o.stripes = between(random, 0, 0.06f);
    o.stripe_u = between(random, 2, 6);
    o.phase = between(random, 0, 6.2831853f);
    return o;
}

static int object_part(const Object *o, float x, float y, float *u, float *v) {
    float dx = (x - o->x) / o->radius, dy = (y - o->y) / o->radius, c = cosf(o->angle), s = sinf(o->angle);
    *u = c * dx + s * dy;
    *v = c * dy - s * dx;
    return part_at(shape_of(o->class_index), *u, *v);
}

// Covered quarters (2x2 supersampling) of each pixel, 0..4, and the colour of the last covered one.
static int object_pixel(const Object *o, int x, int y, Rgb *color) {
    int covered = 0;
    for (int i = 0; i < 4; i++) {
        float u, v;
        int part =
            object_part(o, (float)x + 0.25f + 0.5f * (float)(i & 1), (float)y + 0.25f + 0.5f * (float)(i >> 1), &u, &v);
        if (!part) { continue; }
        covered++;
        float shade =
            1 + o->light * (o->light_x * u + o->light_y * v) + o->stripes * sinf(o->stripe_u * 3 * (u + v) + o->phase);
        *color = scale_rgb(o->colors[part - 1], shade);
    }
    return covered;
}

typedef struct {
    int x0, y0, x1, y1;
} Box; // pixels [x0, x1) x [y0, y1)

static Box object_box(const Object *o, int width, int height) {
    float reach = o->radius * 1.5f;
    Box b = {(int)floorf(o->x - reach), (int)floorf(o->y - reach), (int)ceilf(o->x + reach), (int)ceilf(o->y + reach)};
    b.x0 = b.x0 < 0 ? 0 : b.x0;
    b.y0 = b.y0 < 0 ? 0 : b.y0;
    b.x1 = b.x1 > width ? width : b.x1;
    b.y1 = b.y1 > height ? height : b.y1;
    return b;
}

static int object_full_area(Object o) {
    int side = (int)ceilf(3 * o.radius), area = 0;
    o.x = o.y = 0.5f * (float)side;
    Rgb unused;
    for (int y = 0; y < side; y++) {
        for (int x = 0; x < side; x++) { area += object_pixel(&o, x, y, &unused) >= 2; }
    }
    return area;
}

// Whether enough of an object is visible: 40% of it, and 24 pixels of a 64-pixel picture.
static bool visible_enough(const Object *o, int pixels, float scale) {
    return (float)pixels >= 0.4f * (float)o->full_area && (float)pixels >= 24 * scale * scale;
}

// Whether enough of `o` and of everything behind it stays visible if `o` is placed here.
static bool fits(const SynthScene *scene, const Object *objects, const Object *o, float scale) {
    int own = 0, hidden[SYNTH_OBJECTS] = {0};
    Rgb unused;
    Box b = object_box(o, scene->width, scene->height);
    for (int y = b.y0; y < b.y1; y++) {
        for (int x = b.x0; x < b.x1; x++) {
            if (object_pixel(o, x, y, &unused) < 2) { continue; }
            own++;
            int behind = scene->label[y * scene->width + x];
            if (behind) { hidden[behind - 1]++; }
        }
    }
    bool enough = visible_enough(o, own, scale);
    for (int k = 0; k < scene->count; k++) {
        enough = enough && visible_enough(&objects[k], scene->objects[k].area - hidden[k], scale);
    }
    return enough;
}

static bool place(const SynthScene *scene, const Object *objects, Object *o, Random *random, float scale) {
    for (int attempt = 0; attempt < 30; attempt++) {
        o->x = between(random, 0.6f * o->radius, (float)scene->width - 0.6f * o->radius);
        o->y = between(random, 0.6f * o->radius, (float)scene->height - 0.6f * o->radius);
        if (fits(scene, objects, o, scale)) { return true; }
    }
    return false;
}

static void paint_object(const Object *o, const SynthScene *scene, Rgb *pixels) {
    Box b = object_box(o, scene->width, scene->height);
    for (int y = b.y0; y < b.y1; y++) {
        for (int x = b.x0; x < b.x1; x++) {
            Rgb color;
            int i = y * scene->width + x, covered = object_pixel(o, x, y, &color);
            if (!covered) { continue; }
            pixels[i] = mix_rgb(pixels[i], color, 0.25f * (float)covered);
            if (covered >= 2) { scene->label[i] = (uint8_t)(scene->count + 1); }
        }
    }
}

// Boxes and areas of the pixels that are visible so far.
static void measure(SynthScene *scene) {
    Box boxes[SYNTH_OBJECTS];
    for (int k = 0; k < scene->count; k++) {
        boxes[k] = (Box){scene->width, scene->height, 0, 0};
        scene->objects[k].area = 0;
    }
    for (int y = 0; y < scene->height; y++) {
        for (int x = 0; x < scene->width; x++) {
            int k = scene->label[y * scene->width + x] - 1;
            if (k < 0) { continue; }
            Box *b = &boxes[k];
            scene->objects[k].area++;
            b->x0 = x < b->x0 ? x : b->x0;
            b->y0 = y < b->y0 ? y : b->y0;
            b->x1 = x + 1 > b->x1 ? x + 1 : b->x1;
            b->y1 = y + 1 > b->y1 ? y + 1 : b->y1;
        }
    }
    for (int k = 0; k < scene->count; k++) {
        SynthObject *o = &scene->objects[k];
        o->x = boxes[k].x0;
        o->y = boxes[k].y0;
        o->width = boxes[k].x1 - boxes[k].x0;
        o->height = boxes[k].y1 - boxes[k].y0;
    }
}

// A person with probability frequent_share (0.26 gives 22% of the (picture, class) pairs); else a colour and a shape,
// one of which may be an earlier object's, so that both words of a class name matter.
static int draw_class(Random *random, const SynthScene *scene, bool held_out, const SynthOptions *o) {
    if (chance(random, (float)o->frequent_share)) { return 0; }
    int copied = scene->count ? scene->objects[random_below(random, (uint32_t)scene->count)].class_index : 0;
    float which = random_uniform(random);
    for (;;) {
        int color = copied && which < 0.2f ? color_of(copied) : (int)random_below(random, (uint32_t)o->colors);
        int shape =
            copied && which >= 0.2f && which < 0.4f ? shape_of(copied) : (int)random_below(random, SYNTH_SHAPES);
        if (held_out || !synth_held_out(class_of(color, shape))) { return class_of(color, shape); }
    }
}

// A gradient between two dull colours with coarse and fine texture.
static void paint_background(Random *random, const SynthScene *scene, float scale, Rgb *pixels) {
    Rgb from = muted(random), to = muted(random);
    float direction = between(random, 0, 6.2831853f), dx = cosf(direction), dy = sinf(direction);
    float coarse_depth = between(random, 0.02f, 0.08f), fine_depth = between(random, 0.01f, 0.05f);
    Texture coarse = texture_new(random, scene->width, scene->height, 12 * scale);
    Texture fine = texture_new(random, scene->width, scene->height, 3 * scale);
    float reach = 0.5f * (fabsf(dx) * (float)scene->width + fabsf(dy) * (float)scene->height);
    for (int y = 0; y < scene->height; y++) {
        for (int x = 0; x < scene->width; x++) {
            float along = dx * ((float)x - 0.5f * (float)scene->width) + dy * ((float)y - 0.5f * (float)scene->height);
            Rgb color = mix_rgb(from, to, 0.5f + 0.5f * along / reach);
            float light = 1 + coarse_depth * texture_at(&coarse, x, y) + fine_depth * texture_at(&fine, x, y);
            pixels[y * scene->width + x] = scale_rgb(color, light);
        }
    }
    free(coarse.values);
    free(fine.values);
}

// A near-white band (0.82 to 0.97) with a wavy border, at the top (a bright sky) or across (a cloud, a wall): a
// whiteness filter mistakes it for mask.
static void paint_bright_band(Random *random, const SynthScene *scene, float scale, Rgb *pixels) {
    float height = (float)scene->height, thickness = between(random, 0.15f, 0.45f) * height;
    float top = chance(random, 0.6f) ? -height : between(random, 0.1f, 0.8f) * height;
    float bottom = top < 0 ? thickness : top + 0.6f * thickness;
    float wave = between(random, 0, 4) * scale, length = between(random, 20, 60) * scale,
          phase = between(random, 0, 6.28f);
    float bright = between(random, 0.84f, 0.95f);
    Rgb tint = {between(random, 0.97f, 1), between(random, 0.98f, 1), 1};
    Texture clouds = texture_new(random, scene->width, scene->height, 9 * scale);
    for (int y = 0; y < scene->height; y++) {
        for (int x = 0; x < scene->width; x++) {
            float shift = wave * sinf((float)x / length * 6.2831853f + phase);
            float inside = fminf((float)y - top - shift, bottom + shift - (float)y) / (1.5f * scale) + 0.5f;
            if (inside <= 0) { continue; }
            Rgb color = scale_rgb(tint, bright + 0.02f * texture_at(&clouds, x, y));
            Rgb *p = &pixels[y * scene->width + x];
            *p = mix_rgb(*p, color, fminf(inside, 1));
        }
    }
    free(clouds.values);
}

static uint8_t to_byte(float value) { return (uint8_t)(fminf(fmaxf(value, 0), 1) * 255 + 0.5f); }

// The camera: colour cast, darker corners, noise.
static void expose(Random *random, SynthScene *scene, const Rgb *pixels) {
    Rgb cast = {between(random, 0.96f, 1.02f), between(random, 0.96f, 1.02f), between(random, 0.96f, 1.02f)};
    float corners = between(random, 0, 0.06f), noise = between(random, 0.004f, 0.018f);
    float cx = 0.5f * (float)scene->width, cy = 0.5f * (float)scene->height;
    for (int y = 0; y < scene->height; y++) {
        for (int x = 0; x < scene->width; x++) {
            int i = y * scene->width + x;
            float dx = ((float)x - cx) / cx, dy = ((float)y - cy) / cy, light = 1 - corners * (dx * dx + dy * dy);
            scene->rgb[3 * i] = to_byte(pixels[i].r * cast.r * light + noise * random_normal(random));
            scene->rgb[3 * i + 1] = to_byte(pixels[i].g * cast.g * light + noise * random_normal(random));
            scene->rgb[3 * i + 2] = to_byte(pixels[i].b * cast.b * light + noise * random_normal(random));
        }
    }
}

SynthScene synth_draw(const SynthOptions *options, bool held_out, long long index) {
    SynthScene scene = {.width = options->width, .height = options->height};
    size_t count = (size_t)scene.width * (size_t)scene.height;
    scene.rgb = xmalloc(3 * count);
    scene.label = xcalloc(count, 1);
    Rgb *pixels = xmalloc(count * sizeof *pixels);
    float scale = (float)(scene.width < scene.height ? scene.width : scene.height) / 64;
    float size = (float)options->object_size;
    float visible = size < 1 ? scale * size : scale; // small objects may show fewer pixels
    Random random = random_begin(options->seed, PHILOX_SCENE, held_out, (uint64_t)index);

    paint_background(&random, &scene, scale, pixels);
    if (chance(&random, 0.2f)) { paint_bright_band(&random, &scene, scale, pixels); }
    Object objects[SYNTH_OBJECTS];
    int wanted = 2 + (int)random_below(&random, SYNTH_OBJECTS - 1);
    for (int k = 0; k < wanted; k++) {
        Object o = object_new(&random, draw_class(&random, &scene, held_out, options), scale * size);
        o.full_area = object_full_area(o);
        if (!place(&scene, objects, &o, &random, visible)) { continue; }
        paint_object(&o, &scene, pixels);
        objects[scene.count] = o;
        scene.objects[scene.count++].class_index = o.class_index;
        measure(&scene);
    }
    expose(&random, &scene, pixels);
    free(pixels);
    return scene;
}

void synth_free(SynthScene *scene) {
    free(scene->rgb);
    free(scene->label);
    *scene = (SynthScene){0};
}
