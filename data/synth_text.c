#include "data/synth_text.h"
#include "util/philox.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *const phrase_kind_names[] = {"name", "attribute", "relation", "size", "plural", "absent"};
static const char *const shape_names[] = {"circle", "square", "triangle", "cross", "person"};
static const char *const shape_plurals[] = {"circles", "squares", "triangles", "crosses", "people"};
static const char *const color_names[SYNTH_COLORS] = {"red",    "green", "blue", "yellow", "purple",
                                                      "orange", "cyan",  "pink", "brown",  "black"};
enum { PERSON = SYNTH_SHAPES, NOUNS = PERSON + 1 };
static const double least_ratio = 1.2; // of the areas of the largest and the next

typedef struct {
    const SynthOptions *options;
    const SynthObject *objects;
    int count;
    bool held_out;
    SynthPhrase *phrases;
    int phrase_count;
    Random random; // of the absent phrases
} Speaker;

static int color_of(int c) { return c ? (c - 1) / SYNTH_SHAPES : -1; }
static int shape_of(int c) { return c ? (c - 1) % SYNTH_SHAPES : PERSON; }

static SynthPhrase *say(Speaker *s, PhraseKind kind, const char *format, ...) __attribute__((format(printf, 3, 4)));
static SynthPhrase *say(Speaker *s, PhraseKind kind, const char *format, ...) {
    assert(s->phrase_count < SYNTH_PHRASES);
    SynthPhrase *p = &s->phrases[s->phrase_count++];
    *p = (SynthPhrase){.kind = kind};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->text, sizeof p->text, format, arguments);
    va_end(arguments);
    return p;
}

static void refer(SynthPhrase *p, int object) { p->objects[p->count++] = object; }

// ---- groups of objects: of a class, a colour, a shape

typedef enum { OF_CLASS, OF_COLOR, OF_SHAPE } Property;

static bool has(const SynthObject *o, Property property, int value) {
    int c = o->class_index;
    return (property == OF_CLASS ? c : property == OF_COLOR ? color_of(c) : shape_of(c)) == value;
}

// How many objects have a property; *first gets the first one, or -1.
static int number_of(const Speaker *s, Property property, int value, int *first) {
    int count = 0;
    *first = -1;
    for (int k = s->count - 1; k >= 0; k--) {
        if (!has(&s->objects[k], property, value)) { continue; }
        count++;
        *first = k;
    }
    return count;
}

static void say_names(Speaker *s) {
    int k;
    for (int c = 0; c < SYNTH_CLASSES; c++) {
        if (number_of(s, OF_CLASS, c, &k) == 1) { refer(say(s, PHRASE_NAME, "the %s", synth_class_name(c)), k); }
    }
}

static void say_attributes(Speaker *s) {
    int k;
    for (int c = 0; c < SYNTH_COLORS; c++) {
        if (number_of(s, OF_COLOR, c, &k) == 1) { refer(say(s, PHRASE_ATTRIBUTE, "the %s one", color_names[c]), k); }
    }
    for (int h = 0; h < SYNTH_SHAPES; h++) {
        if (number_of(s, OF_SHAPE, h, &k) == 1) { refer(say(s, PHRASE_ATTRIBUTE, "the %s", shape_names[h]), k); }
    }
}

static void say_plurals(Speaker *s) {
    int k;
    for (int h = 0; h < NOUNS; h++) {
        if (number_of(s, OF_SHAPE, h, &k) < 2) { continue; }
        SynthPhrase *p = say(s, PHRASE_PLURAL, "all %s", shape_plurals[h]);
        for (k = 0; k < s->count; k++) {
            if (has(&s->objects[k], OF_SHAPE, h)) { refer(p, k); }
        }
    }
    for (int c = 0; c < SYNTH_COLORS; c++) {
        if (number_of(s, OF_COLOR, c, &k) < 2) { continue; }
        SynthPhrase *p = say(s, PHRASE_PLURAL, "all %s shapes", color_names[c]);
        for (k = 0; k < s->count; k++) {
            if (has(&s->objects[k], OF_COLOR, c)) { refer(p, k); }
        }
    }
}

// The largest (sign 1) or the smallest (-1) object of a shape, if it is clearly that.
static void say_size(Speaker *s, int shape, int sign) {
    int best = -1;
    bool clear = true;
    for (int k = 0; k < s->count; k++) {
        if (!has(&s->objects[k], OF_SHAPE, shape)) { continue; }
        if (best < 0 || sign * (s->objects[k].area - s->objects[best].area) > 0) { best = k; }
    }
    for (int k = 0; k < s->count; k++) {
        if (k == best || !has(&s->objects[k], OF_SHAPE, shape)) { continue; }
        double ratio = (double)s->objects[k].area / s->objects[best].area;
        clear = clear && (sign > 0 ? 1 / ratio : ratio) >= least_ratio;
    }
    if (clear) { refer(say(s, PHRASE_SIZE, "the %s %s", sign > 0 ? "largest" : "smallest", shape_names[shape]), best); }
}

static void say_sizes(Speaker *s) {
    int k;
    for (int h = 0; h < NOUNS; h++) {
        if (number_of(s, OF_SHAPE, h, &k) < 2) { continue; }
        say_size(s, h, 1);
        say_size(s, h, -1);
    }
}

// ---- relations

enum { LEFT, RIGHT, ABOVE, BELOW, SIDES };
static const char *const side_names[] = {"left of", "right of", "above", "below"};

// How far a lies on a side of b, in half pixels: twice the distance of the boxes' centres along the axis.
static int distance(const SynthObject *a, const SynthObject *b, int side) {
    int x = 2 * b->x + b->width - 2 * a->x - a->width, y = 2 * b->y + b->height - 2 * a->y - a->height;
    int along = side == LEFT || side == RIGHT ? x : y;
    return side == LEFT || side == ABOVE ? along : -along;
}

// How many objects with a property lie on a side of object b; -1 if one is not clearly on this or on the other side.
static int on_side(const Speaker *s, Property property, int value, int b, int side, int *which) {
    int margin = s->options->width < s->options->height ? s->options->width : s->options->height, count = 0;
    for (int k = 0; k < s->count; k++) {
        if (!has(&s->objects[k], property, value)) { continue; }
        int far = distance(&s->objects[k], &s->objects[b], side); // margin / 8 pixels are margin / 4 half pixels
        if (4 * far < margin && 4 * far > -margin) { return -1; }
        if (far > 0) {
            count++;
            *which = k;
        }
    }
    return count;
}

// Says where things with a property are in relation to the only object of a class. Keeps one of those that hold of
// nothing, chosen by reservoir sampling (Vitter 1985): *seen of them came before.
static void say_relation(Speaker *s, Property property, int value, const char *noun, int b, SynthPhrase *nowhere,
                         int *seen) {
    const char *anchor = synth_class_name(s->objects[b].class_index);
    for (int side = 0; side < SIDES; side++) {
        int k, count = on_side(s, property, value, b, side, &k);
        if (count == 1) { refer(say(s, PHRASE_RELATION, "the %s %s the %s", noun, side_names[side], anchor), k); }
        if (count != 0 || random_below(&s->random, (uint32_t)++ * seen) != 0) { continue; }
        snprintf(nowhere->text, sizeof nowhere->text, "the %s %s the %s", noun, side_names[side], anchor);
    }
}

static void say_relations(Speaker *s) {
    SynthPhrase nowhere = {.kind = PHRASE_ABSENT};
    int k, b, seen = 0;
    for (int anchor = 0; anchor < SYNTH_CLASSES; anchor++) {
        if (number_of(s, OF_CLASS, anchor, &b) != 1) { continue; }
        for (int c = 0; c < SYNTH_CLASSES; c++) {
            if (c == anchor || !number_of(s, OF_CLASS, c, &k)) { continue; }
            say_relation(s, OF_CLASS, c, synth_class_name(c), b, &nowhere, &seen);
        }
        for (int h = 0; h < SYNTH_SHAPES; h++) {
            if (h == shape_of(anchor) || number_of(s, OF_SHAPE, h, &k) < 2) { continue; }
            say_relation(s, OF_SHAPE, h, shape_names[h], b, &nowhere, &seen);
        }
    }
    if (seen) { *say(s, PHRASE_ABSENT, "%s", "") = nowhere; }
}

// ---- phrases that hold of nothing

// Draws a value below `values` that no object has; -1 if there is none. Classes: one that this scene could have.
static int draw_missing(Speaker *s, Property property, int values) {
    bool missing[SYNTH_CLASSES];
    uint32_t choices = 0;
    int k;
    for (int v = 0; v < values; v++) {
        bool possible =
            property != OF_CLASS || ((s->held_out || !synth_held_out(v)) && (v > 0 || s->options->frequent_share > 0));
        missing[v] = possible && number_of(s, property, v, &k) == 0;
        choices += missing[v];
    }
    uint32_t ticket = choices ? random_below(&s->random, choices) : 0;
    for (int v = 0; v < values && choices; v++) {
        if (missing[v] && ticket-- == 0) { return v; }
    }
    return -1;
}

static void say_absent(Speaker *s) {
    int missing = draw_missing(s, OF_CLASS, synth_classes(s->options)),
        color = draw_missing(s, OF_COLOR, s->options->colors);
    if (missing >= 0) { say(s, PHRASE_ABSENT, "the %s", synth_class_name(missing)); }
    int shape = draw_missing(s, OF_SHAPE, SYNTH_SHAPES);
    if (random_below(&s->random, 2) && color >= 0) { // of two or three colours none may be missing
        say(s, PHRASE_ABSENT, "the %s one", color_names[color]);
    } else {
        say(s, PHRASE_ABSENT, "the %s", shape_names[shape]);
    }
    shape = draw_missing(s, OF_SHAPE, SYNTH_SHAPES);
    say(s, PHRASE_ABSENT, "the %s %s", random_below(&s->random, 2) ? "largest" : "smallest", shape_names[shape]);
    shape = draw_missing(s, OF_SHAPE, SYNTH_SHAPES);
    color = draw_missing(s, OF_COLOR, s->options->colors);
    if (random_below(&s->random, 2) && color >= 0) {
        say(s, PHRASE_ABSENT, "all %s shapes", color_names[color]);
    } else {
        say(s, PHRASE_ABSENT, "all %s", shape_plurals[shape]);
    }
}

int synth_phrases(const SynthOptions *options, const SynthObject *objects, int count, bool held_out, long long index,
                  SynthPhrase phrases[SYNTH_PHRASES]) {
    Speaker s = {.options = options, .objects = objects, .count = count, .held_out = held_out, .phrases = phrases};
    s.random = random_begin(options->seed, PHILOX_SCENE, 2 + held_out, (uint64_t)index); // 0, 1: the pictures
    say_names(&s);
    say_attributes(&s);
    say_relations(&s);
    say_sizes(&s);
    say_plurals(&s);
    say_absent(&s);
    return s.phrase_count;
}

void synth_caption(const SynthObject *objects, int count, bool reverse, char caption[256]) {
    int used = 0;
    caption[0] = 0;
    for (int i = 0; i < count; i++) {
        const char *name = synth_class_name(objects[reverse ? count - 1 - i : i].class_index);
        const char *joint = i == 0 ? "" : i + 1 < count ? ", " : count > 2 ? ", and " : " and ";
        used += snprintf(caption + used, 256 - (size_t)used, "%s%s %s", joint, name[0] == 'o' ? "an" : "a", name);
    }
}
