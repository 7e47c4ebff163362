#include "data/left_out.h"
#include "data/texts.h"
#include "util/error.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { NAMED = 5, KINDS = 32 }; // ids that are named of each kind

typedef struct {
    const char *kind;
    char *why, *why_id; // of the one with the smallest id, or NULL
    TextTable ids;
    int said;
} Kind;

struct LeftOut {
    pthread_mutex_t lock;
    Kind kinds[KINDS];
    int count;
};

LeftOut *left_out_new(void) {
    LeftOut *list = xcalloc(1, sizeof *list);
    pthread_mutex_init(&list->lock, NULL);
    return list;
}

void left_out_free(LeftOut *list) {
    if (!list) { return; }
    for (int i = 0; i < list->count; i++) {
        text_table_free(&list->kinds[i].ids);
        free(list->kinds[i].why);
        free(list->kinds[i].why_id);
    }
    pthread_mutex_destroy(&list->lock);
    free(list);
}

static int find(const LeftOut *list, const char *kind) {
    int i = 0;
    while (i < list->count && strcmp(list->kinds[i].kind, kind) != 0) { i++; }
    return i;
}

static void add(Kind *k, const char *id, const char *why) {
    text_table_add(&k->ids, id);
    if (!why || (k->why_id && strverscmp(id, k->why_id) >= 0)) { return; }
    free(k->why);
    free(k->why_id);
    k->why = xstrdup(why);
    k->why_id = xstrdup(id);
}

static int by_version(const void *a, const void *b) {
    return strverscmp(*(const char *const *)a, *(const char *const *)b);
}

// The ids from number `from` on, sorted, whatever thread met them first. The caller frees the list.
static const char **sorted_ids(const Kind *k, int from) {
    size_t count = (size_t)(k->ids.count - from);
    const char **ids = xcalloc(count + 1, sizeof *ids);
    for (size_t i = 0; i < count; i++) { ids[i] = k->ids.texts[(size_t)from + i]; }
    qsort(ids, count, sizeof *ids, by_version);
    return ids;
}

void left_out_add(LeftOut *list, const char *kind, const char *id, const char *why) {
    if (!list) {
        warn("%s: %s", id, why ? why : kind);
        return;
    }
    pthread_mutex_lock(&list->lock);
    int i = find(list, kind);
    if (i == list->count && i < KINDS) {
        list->kinds[i].kind = kind;
        list->count++;
    }
    if (i < KINDS) { add(&list->kinds[i], id, why); }
    pthread_mutex_unlock(&list->lock);
}

long long left_out_count(const LeftOut *list, const char *kind) {
    int i = list ? find(list, kind) : 0;
    return list && i < list->count ? list->kinds[i].ids.count : 0;
}

// "2 annotations without a mask (4, 17)", those added since the last time.
static char *describe(const Kind *k) {
    int count = k->ids.count - k->said;
    char *text = xprintf("%d %s", count, k->kind);
    const char **ids = sorted_ids(k, k->said);
    for (int i = 0; i < count && i <= NAMED; i++) {
        const char *id = i < NAMED ? ids[i] : "...";
        char *longer = xprintf("%s%s%.100s", text, i ? ", " : " (", id);
        free(text);
        text = longer;
    }
    char *whole = xprintf("%s)%s%s", text, k->why ? ", the first: " : "", k->why ? k->why : "");
    free(text);
    free(ids);
    return whole;
}

char *left_out_text(LeftOut *list) {
    char *all = xstrdup("");
    for (int i = 0; i < list->count; i++) {
        list->kinds[i].said = 0;
        char *text = describe(&list->kinds[i]), *longer = xprintf("%s%s%s", all, i ? "; " : "", text);
        free(all);
        free(text);
        all = longer;
    }
    return all;
}

bool left_out_any(const LeftOut *list) { return list && list->count > 0; }

void left_out_say(LeftOut *list, const char *path, const char *verb) {
    if (!list) { return; }
    for (int i = 0; i < list->count; i++) {
        Kind *k = &list->kinds[i];
        if (k->said == k->ids.count) { continue; }
        char *text = describe(k);
        warn("%s: %s: %s", path, verb, text);
        free(text);
        free(k->why);
        free(k->why_id);
        k->why = k->why_id = NULL;
        k->said = k->ids.count;
    }
}

void left_out_put(const LeftOut *list, yajl_gen gen, const char *key) {
    if (!list || !list->count) { return; }
    json_open_map(gen, key);
    for (int i = 0; i < list->count; i++) {
        const char **ids = sorted_ids(&list->kinds[i], 0);
        json_put_strings(gen, list->kinds[i].kind, ids, list->kinds[i].ids.count);
        free(ids);
    }
    yajl_gen_map_close(gen);
}
