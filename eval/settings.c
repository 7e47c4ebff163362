#include "eval/settings.h"
#include "data/shard.h"
#include "eval/prompt_sets.h"
#include "util/error.h"
#include "util/text.h"
#include "util/file.h"
#include "util/json.h"
#include <stdlib.h>
#include <string.h>

ModelSettings settings_default(void) {
    return (ModelSettings){.target = TARGET_OVERLAY, .color = {255, 255, 255}, .alpha = 1, .steps = 4};
}

static bool has_name(char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) { return true; }
    }
    return false;
}

void settings_add(int *count, char ***names, int new_count, const char *const *new_names) {
    *names = xrealloc(*names, ((size_t)*count + (size_t)new_count + 1) * sizeof **names);
    for (int i = 0; i < new_count; i++) {
        char *name = text_trimmed(new_names[i]);
        if (has_name(*names, *count, name)) {
            free(name);
        } else {
            (*names)[(*count)++] = name;
        }
    }
}

static void free_names(int *count, char ***names) {
    for (int i = 0; i < *count; i++) { free((*names)[i]); }
    free(*names);
    *names = NULL;
    *count = 0;
}

void settings_free(ModelSettings *s) {
    free_names(&s->train_class_count, &s->train_classes);
    free_names(&s->all_class_count, &s->all_classes);
    free(s->text_template);
    s->text_template = NULL;
}

char *settings_text(const ModelSettings *s, const char *class_name) {
    return prompt_fill(s->text_template ? s->text_template : "{}", class_name);
}

static bool same_words(const char *a, const char *b) {
    for (; *a && *b; a++, b++) {
        if (*a != *b && !((*a == '_' || *a == ' ') && (*b == '_' || *b == ' '))) { return false; }
    }
    return *a == *b;
}

bool settings_is_trained(const ModelSettings *s, const char *class_name) {
    for (int i = 0; i < s->train_class_count; i++) {
        if (same_words(s->train_classes[i], class_name)) { return true; }
    }
    return false;
}

static void read_names(const Json *json, const char *field, int *count, char ***names) {
    yajl_val array = json_find(json->root, field);
    int capacity = array && YAJL_IS_ARRAY(array) ? (int)array->u.array.len : 0;
    const char **values = xmalloc(((size_t)capacity + 1) * sizeof *values);
    int n = json_strings(json, field, values, capacity + 1);
    *count = n < 0 ? 0 : n;
    *names = xcalloc((size_t)*count + 1, sizeof **names);
    for (int i = 0; i < n; i++) { (*names)[i] = text_trimmed(values[i]); }
    free(values);
}

static double number_in(const Json *json, const char *field, double fallback, double low, double high) {
    double value = json_number(json, field, fallback);
    if (!(value >= low && value <= high)) {
        die("%s: %s is %g: expected a value from %g to %g", json->path, field, value, low, high);
    }
    return value;
}

bool settings_read(ModelSettings *s, const char *folder) {
    *s = settings_default();
    char *path = xprintf("%s/cocogold.json", folder);
    bool there = file_exists(path);
    if (there) {
        Json json = json_read(path);
        s->target = TARGET_OVERLAY + json_choice(&json, "target", target_names, 0);
        int n = json_integers(&json, "color", s->color, 3, 0, 255);
        if (n != -1 && n != 3) { die("%s: color has %d values: expected red, green and blue", path, n); }
        s->alpha = number_in(&json, "alpha", 1, 0, 1);
        s->outline = number_in(&json, "outline", 0, 0, 64);
        s->steps = (int)number_in(&json, "steps", 4, 1, 1000);
        s->resolution = (int)number_in(&json, "resolution", 0, 0, 1 << 14);
        read_names(&json, "train_classes", &s->train_class_count, &s->train_classes);
        read_names(&json, "all_classes", &s->all_class_count, &s->all_classes);
        const char *template = json_string(&json, "text_template", NULL);
        s->text_template = template ? xstrdup(template) : NULL;
        json_free(&json);
    }
    free(path);
    return there;
}

void settings_write(const ModelSettings *s, const char *folder) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "target", target_names[s->target - TARGET_OVERLAY]);
    json_put_integers(gen, "color", s->color, 3);
    json_put_number(gen, "alpha", s->alpha);
    json_put_number(gen, "outline", s->outline);
    json_put_integer(gen, "steps", s->steps);
    json_put_integer(gen, "resolution", s->resolution);
    json_put_string(gen, "text_template", s->text_template ? s->text_template : "{}");
    json_put_strings(gen, "train_classes", (const char *const *)s->train_classes, s->train_class_count);
    json_put_strings(gen, "all_classes", (const char *const *)s->all_classes, s->all_class_count);
    yajl_gen_map_close(gen);
    char *path = xprintf("%s/cocogold.json", folder);
    json_write(gen, path);
    free(path);
}

void settings_copy(const char *from, const char *to) {
    char *source = xprintf("%s/cocogold.json", from), *target = xprintf("%s/cocogold.json", to);
    if (file_exists(source)) {
        size_t size;
        char *text = read_file(source, &size);
        atomic_write(target, text, size);
        free(text);
    }
    free(source);
    free(target);
}

static const char *const compared_names[] = {"decoded latent", "picture", NULL};

// Thresholds for decoded latents do not fit pictures.
static void check_compared(const Json *json, Compared compared) {
    if (json_choice(json, "compared_with", compared_names, (int)compared) >= (int)compared) { return; }
    warn("%s: eval --protocol crops chose these thresholds, which compared with the decoded latent instead of the "
         "picture: expected a new choice (cocogold eval --data DIR --tune-on SPLIT)",
         json->path);
}

// Reads the thresholds of segmentation.json for a method; `any_method`: also uses the file's method.
static void read_thresholds(MaskRule *rule, const char *folder, bool any_method, Compared compared) {
    char *path = xprintf("%s/segmentation.json", folder);
    if (file_exists(path)) {
        Json json = json_read(path);
        MaskMethod method = (MaskMethod)json_choice(&json, "method", mask_method_names, (int)rule->method);
        if (any_method || method == rule->method) {
            rule->method = method;
            rule->tolerance = (float)number_in(&json, "tolerance", rule->tolerance, 0, 1);
            rule->changed = (float)number_in(&json, "changed", rule->changed, 0, 1);
            rule->opening = json_boolean(&json, "opening", rule->opening);
            if (method == MASK_COMPARE) { check_compared(&json, compared); }
        }
        json_free(&json);
    }
    free(path);
}

MaskRule settings_rule(const ModelSettings *s, const char *folder, const MaskOptions *o, Compared compared) {
    MaskMethod method = s->target == TARGET_MASK ? MASK_LUMINANCE : MASK_COMPARE;
    MaskRule rule = mask_rule(o->method ? (MaskMethod)o->kind : method, s->color, s->alpha);
    read_thresholds(&rule, folder, !o->method, compared);
    if (!isnan(o->tolerance)) { rule.tolerance = (float)o->tolerance; }
    if (!isnan(o->changed)) { rule.changed = (float)o->changed; }
    rule.opening = rule.opening && !o->no_opening;
    return rule;
}

void settings_rule_write(const MaskRule *rule, Compared compared, const char *folder, const char *tuned_on, int pairs,
                         double miou) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "method", mask_method_names[rule->method]);
    json_put_number(gen, "tolerance", round(rule->tolerance * 1e4) / 1e4);
    json_put_number(gen, "changed", round(rule->changed * 1e4) / 1e4);
    json_put_boolean(gen, "opening", rule->opening);
    json_put_string(gen, "compared_with", compared_names[compared]);
    json_put_string(gen, "tuned_on", tuned_on);
    json_put_integer(gen, "pairs", pairs);
    json_put_number(gen, "miou", miou);
    yajl_gen_map_close(gen);
    char *path = xprintf("%s/segmentation.json", folder);
    json_write(gen, path);
    free(path);
}
