#include "data/left_out.h"
#include "data/texts.h"
#include "util/error.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { NAMED = 5, KINDS = 32 }; // ids that are named of each kind

typedef struct {
    const char *kind;
    char *why; // of the first one, or NULL
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
    }
    pthread_mutex_destroy(&list->lock);
    free(list);
}

static int find(const LeftOut *list, const char *kind) {
    int i = 0;
    while (i < list->count && strcmp(list->kinds[i].kind, kind) != 0) { i++; }
    return i;
}

void left_out_add(LeftOut *list, const char *kind, const char *id, const char *why) {
    pthread_mutex_lock(&list->lock);
    int i = find(list, kind);
    if (i == list->count && i < KINDS) {
        list->kinds[i].kind = kind;
        list->kinds[i].why = why ? xstrdup(why) : NULL;
        list->count++;
    }
    if (i < KINDS) { text_table_add(&list->kinds[i].ids, id); }
    pthread_mutex_unlock(&list->lock);
}

long long left_out_count(const LeftOut *list, const char *kind) {
    int i = list ? find(list, kind) : 0;
    return list && i < list->count ? list->kinds[i].ids.count : 0;
}

// "2 annotations without a mask (4, 17)", those added since the last time.
static char *describe(Kind *k) {
    int count = k->ids.count - k->said;
    char *text = xprintf("%d %s", count, k->kind);
    for (int i = 0; i < count && i <= NAMED; i++) {
        const char *id = i < NAMED ? k->ids.texts[k->said + i] : "...";
        char *longer = xprintf("%s%s%.100s", text, i ? ", " : " (", id);
        free(text);
        text = longer;
    }
    char *whole = xprintf("%s)%s%s", text, k->why ? ", the first: " : "", k->why ? k->why : "");
    free(text);
    return whole;
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
        k->why = NULL;
        k->said = k->ids.count;
    }
}

void left_out_put(const LeftOut *list, yajl_gen gen, const char *key) {
    if (!list || !list->count) { return; }
    json_open_map(gen, key);
    for (int i = 0; i < list->count; i++) {
        const TextTable *ids = &list->kinds[i].ids;
        json_put_strings(gen, list->kinds[i].kind, (const char *const *)ids->texts, ids->count);
    }
    yajl_gen_map_close(gen);
}
