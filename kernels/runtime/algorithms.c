#include "kernels/runtime/algorithms.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/text.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Another algorithm than the first is chosen if it needs less than this share of the first one's time: differences
// within the noise change nothing.
static const double BETTER = 0.98;

typedef struct {
    char *product;
    int choice, offered;
    double seconds, first_seconds; // of the choice; of the first
} Entry;

typedef struct {
    Entry *list;
    int count;
} Entries;

static void entries_free(Entries *e) {
    for (int i = 0; i < e->count; i++) { free(e->list[i].product); }
    free(e->list);
    *e = (Entries){0};
}

static Entry *find(const Entries *e, const char *product) {
    for (int i = 0; i < e->count; i++) {
        if (!strcmp(e->list[i].product, product)) { return e->list + i; }
    }
    return NULL;
}

static void set(Entries *e, Entry entry) {
    Entry *old = find(e, entry.product);
    if (old) {
        free(old->product);
        *old = entry;
        return;
    }
    GROW(e->list, e->count);
    e->list[e->count++] = entry;
}

// ---- The file ------------------------------------------------------------------------------------------------------

static char *cache_folder(void) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache == '/') { return xprintf("%s/cocogold", cache); } // others are to be ignored (XDG)
    return home && *home ? xprintf("%s/.cache/cocogold", home) : NULL;
}

char *algorithms_path(const char *machine) {
    char *folder = cache_folder(), *name = text_file_name(machine);
    char *path = folder ? xprintf("%s/algorithms-%s.json", folder, name) : NULL;
    free(folder);
    free(name);
    return path;
}

static bool read_entry(Entries *e, yajl_val row) {
    yajl_val product = YAJL_IS_OBJECT(row) ? json_find(row, "product") : NULL;
    if (!product || !YAJL_IS_STRING(product)) { return false; }
    const double offered = json_number_at(row, "offered"), choice = json_number_at(row, "choice");
    if (!(offered >= 1 && offered <= ALGORITHMS && choice >= 0 && choice < offered)) { return false; }
    set(e, (Entry){.product = xstrdup(YAJL_GET_STRING(product)),
                   .choice = (int)choice,
                   .offered = (int)offered,
                   .seconds = 1e-6 * json_number_at(row, "us"),
                   .first_seconds = 1e-6 * json_number_at(row, "first_us")});
    return true;
}

// What is wrong with the file's text; NULL: nothing.
static const char *parse(Entries *e, const char *text, const char *machine, char *reason, size_t size) {
    yajl_val root = json_parse(text, reason, size);
    reason[strcspn(reason, "\n")] = 0;
    if (!root) { return *reason ? reason : "it is empty or cut off"; }
    const char *wrong = NULL, *name = YAJL_IS_OBJECT(root) ? json_string_at(root, "machine") : "";
    yajl_val rows = YAJL_IS_OBJECT(root) ? json_find(root, "products") : NULL;
    if (!rows || !YAJL_IS_ARRAY(rows)) {
        wrong = "it has no list \"products\"";
    } else if (strcmp(name, machine) != 0) {
        wrong = "it is of another machine";
    }
    for (size_t i = 0; !wrong && i < YAJL_GET_ARRAY(rows)->len; i++) {
        if (!read_entry(e, YAJL_GET_ARRAY(rows)->values[i])) { wrong = "an entry of \"products\" is not valid"; }
    }
    yajl_tree_free(root);
    return wrong;
}

static Entries read_entries(const char *path, const char *machine) {
    Entries e = {0};
    if (!file_exists(path)) { return e; }
    if (access(path, R_OK) != 0) {
        warn("%s: cannot be read (%s): the algorithms are timed again", path, strerror(errno));
        return e;
    }
    char reason[256] = "", *text = read_file(path, NULL);
    const char *wrong = parse(&e, text, machine, reason, sizeof reason);
    if (wrong) {
        warn("%s: is damaged (%s): the algorithms are timed again", path, wrong);
        entries_free(&e);
    }
    free(text);
    return e;
}

// False, with errno: it cannot be written.
static bool write_entries(const Entries *e, const char *path, const char *machine) {
    if (!try_make_folders(folder_of(path).text)) { return false; }
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "machine", machine);
    json_key(gen, "products");
    yajl_gen_array_open(gen);
    for (int i = 0; i < e->count; i++) {
        const Entry *entry = e->list + i;
        yajl_gen_map_open(gen);
        json_put_string(gen, "product", entry->product);
        json_put_integer(gen, "choice", entry->choice);
        json_put_integer(gen, "offered", entry->offered);
        json_put_number(gen, "us", 1e6 * entry->seconds);
        json_put_number(gen, "first_us", 1e6 * entry->first_seconds);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
    return json_try_write(gen, path);
}

// ---- The choice ----------------------------------------------------------------------------------------------------

static Entry time_product(Device *dev, int product) {
    double seconds[ALGORITHMS];
    Entry entry = {.offered = algorithms_time(dev, product, seconds)};
    for (int i = 1; i < entry.offered; i++) {
        if (seconds[i] < BETTER * seconds[0] && seconds[i] < seconds[entry.choice]) { entry.choice = i; }
    }
    if (entry.offered) { entry.seconds = seconds[entry.choice], entry.first_seconds = seconds[0]; }
    return entry;
}

// Rank 0's choices; returns the number of products that were timed.
static int choose(Device *dev, Entries *e, int *choices) {
    int timed = 0;
    for (int i = 0; i < algorithms_noted(dev); i++) {
        char *product = algorithms_product(dev, i);
        const Entry *known = find(e, product);
        if (known && known->offered == algorithms_time(dev, i, NULL)) {
            choices[i] = known->choice;
            free(product);
            continue;
        }
        Entry entry = time_product(dev, i);
        choices[i] = entry.choice;
        if (!entry.offered) { // without memory: the first, this time
            free(product);
            continue;
        }
        entry.product = product;
        set(e, entry);
        timed++;
    }
    return timed;
}

void algorithms_tune(Device *dev, Comm *comm) {
    const int count = algorithms_noted(dev);
    char *machine = algorithms_machine(dev);
    if (!machine) {
        warn("--tune: the CPU has no algorithms to choose from");
        return;
    }
    int *choices = xcalloc((size_t)count + 1, sizeof *choices), timed = 0, others = 0;
    char *path = algorithms_path(machine);
    if (comm->rank == 0) {
        if (!path) { warn("neither XDG_CACHE_HOME nor HOME is set: the choice of algorithms is not kept"); }
        Entries e = path ? read_entries(path, machine) : (Entries){0};
        timed = choose(dev, &e, choices);
        if (timed && path && !write_entries(&e, path, machine)) {
            warn("%s: cannot be written (%s): the next run times the algorithms again, and may choose others", path,
                 strerror(errno));
        }
        entries_free(&e);
    }
    comm_host_broadcast(comm, choices, (size_t)count * sizeof *choices, 0);
    for (int i = 0; i < count; i++) {
        others += choices[i] > 0;
        algorithms_choose(dev, i, choices[i]);
    }
    printf(
        "matrix products: %d sizes, %d with another algorithm than cuBLASLt's first (%s); %d timed now, kept in %s\n",
        count, others, algorithms_chosen(dev), timed, path ? path : "no file");
    free(choices);
    free(machine);
    free(path);
}
