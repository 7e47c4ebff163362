#include "data/left_out.h"
#include "data/texts.h"
#include "util/error.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { NAMED = 5, KINDS = 32 }; // ids that are named of each kind

typedef struct {
    char *id, *sentence;
} Why;

typedef struct {
    const char *kind;
    Why first[NAMED]; // those with the smallest ids, sorted
    int first_count;
    char **ids; // (count) of all, an id may occur several times
    int count, said;
    TextTable once; // the same ids, of a kind that is added by left_out_once alone
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

static void drop_whys(Kind *k) {
    for (int i = 0; i < k->first_count; i++) {
        free(k->first[i].id);
        free(k->first[i].sentence);
    }
    k->first_count = 0;
}

void left_out_free(LeftOut *list) {
    if (!list) { return; }
    for (int i = 0; i < list->count; i++) {
        Kind *k = &list->kinds[i];
        for (int id = 0; id < k->count; id++) { free(k->ids[id]); }
        free(k->ids);
        text_table_free(&k->once);
        drop_whys(k);
    }
    pthread_mutex_destroy(&list->lock);
    free(list);
}

static int find(const LeftOut *list, const char *kind) {
    int i = 0;
    while (i < list->count && strcmp(list->kinds[i].kind, kind) != 0) { i++; }
    return i;
}

// Keeps the sentences of the smallest ids.
static void add_why(Kind *k, const char *id, const char *sentence) {
    int at = k->first_count;
    while (at > 0 && strverscmp(id, k->first[at - 1].id) < 0) { at--; }
    if (at == NAMED || (at > 0 && strcmp(id, k->first[at - 1].id) == 0)) { return; }
    if (k->first_count == NAMED) {
        k->first_count--;
        free(k->first[NAMED - 1].id);
        free(k->first[NAMED - 1].sentence);
    }
    memmove(k->first + at + 1, k->first + at, (size_t)(k->first_count - at) * sizeof *k->first);
    k->first[at] = (Why){xstrdup(id), xstrdup(sentence)};
    k->first_count++;
}

static void add(Kind *k, const char *id, const char *why) {
    GROW(k->ids, k->count);
    k->ids[k->count++] = xstrdup(id);
    if (why) { add_why(k, id, why); }
}

static int by_version(const void *a, const void *b) {
    return strverscmp(*(const char *const *)a, *(const char *const *)b);
}

// The ids from number `from` on, sorted, whatever thread met them first. The caller frees the list.
static const char **sorted_ids(const Kind *k, int from) {
    size_t count = (size_t)(k->count - from);
    const char **ids = xcalloc(count + 1, sizeof *ids);
    for (size_t i = 0; i < count; i++) { ids[i] = k->ids[(size_t)from + i]; }
    qsort(ids, count, sizeof *ids, by_version);
    return ids;
}

static void add_to(LeftOut *list, const char *kind, const char *id, const char *why, bool once) {
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
    Kind *k = i < KINDS ? &list->kinds[i] : NULL;
    bool known = k && once && text_table_add(&k->once, id) < k->count;
    if (k && !known) { add(k, id, why); }
    pthread_mutex_unlock(&list->lock);
}

void left_out_add(LeftOut *list, const char *kind, const char *id, const char *why) {
    add_to(list, kind, id, why, false);
}

void left_out_once(LeftOut *list, const char *kind, const char *id, const char *why) {
    add_to(list, kind, id, why, true);
}

long long left_out_count(const LeftOut *list, const char *kind) {
    int i = list ? find(list, kind) : 0;
    return list && i < list->count ? list->kinds[i].count : 0;
}

// "2 annotations without a mask (4, 17)", those added since the last time.
static char *describe(const Kind *k) {
    int count = k->count - k->said;
    char *text = xprintf("%d %s", count, k->kind);
    const char **ids = sorted_ids(k, k->said);
    for (int i = 0; i < count && i <= NAMED; i++) {
        const char *id = i < NAMED ? ids[i] : "...";
        char *longer = xprintf("%s%s%.100s", text, i ? ", " : " (", id);
        free(text);
        text = longer;
    }
    char *whole = xprintf("%s)", text);
    free(text);
    free(ids);
    return whole;
}

char *left_out_text(LeftOut *list) {
    char *all = xstrdup("");
    for (int i = 0; i < list->count; i++) {
        list->kinds[i].said = 0;
        const Kind *k = &list->kinds[i];
        char *text = describe(k);
        char *longer = xprintf("%s%s%s%s%s", all, i ? "; " : "", text, k->first_count ? ", the first: " : "",
                               k->first_count ? k->first[0].sentence : "");
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
        if (k->said == k->count) { continue; }
        char *text = describe(k);
        warn("%s: %s: %s", path, verb, text);
        for (int w = 0; w < k->first_count; w++) { warn("%s", k->first[w].sentence); }
        free(text);
        drop_whys(k);
        k->said = k->count;
    }
}

void left_out_put(const LeftOut *list, yajl_gen gen, const char *key) {
    if (!list || !list->count) { return; }
    json_open_map(gen, key);
    for (int i = 0; i < list->count; i++) {
        const char **ids = sorted_ids(&list->kinds[i], 0);
        json_put_strings(gen, list->kinds[i].kind, ids, list->kinds[i].count);
        free(ids);
    }
    yajl_gen_map_close(gen);
}
