#include "util/memory.h"
#include "util/file.h"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// The number behind `name` at the beginning of a line; SIZE_MAX if there is none.
static size_t number_in(const char *path, const char *name) {
    FILE *file = fopen(path, "r");
    char line[256];
    size_t number, found = SIZE_MAX;
    while (file && found == SIZE_MAX && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), "%zu", &number) == 1) {
            found = number;
        }
    }
    if (file) { fclose(file); }
    return found;
}

// Control groups, version 2 and 1: the field of /proc/self/cgroup that marks the process's group, and the group's
// files.
typedef struct {
    const char *mark, *folder, *limit, *usage, *inactive, *active;
} Version;
static const Version versions[] = {{"0::", "", "memory.max", "memory.current", "inactive_file", "active_file"},
                                   {":memory:", "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                    "total_inactive_file", "total_active_file"}};

// What the groups allow; SIZE_MAX: no limit.
typedef struct {
    size_t free_bytes, total_bytes;
    char group[64]; // file_place of the one with the smallest limit, the uppermost among equals
} Limits;

// The kernel gives up pages of files when memory is needed: they count as free.
static void apply_limit(const Version *v, const char *group, Limits *all) {
    size_t limit = number_in(path_of("%s/%s", group, v->limit).text, "");
    size_t used = number_in(path_of("%s/%s", group, v->usage).text, "");
    Path stat = path_of("%s/memory.stat", group);
    const char *const files[] = {v->inactive, v->active};
    if (limit == SIZE_MAX || used == SIZE_MAX) { return; }
    for (int i = 0; i < 2; i++) {
        size_t bytes = number_in(stat.text, files[i]);
        used -= bytes == SIZE_MAX ? 0 : smaller(bytes, used);
    }
    if (limit <= all->total_bytes) { snprintf(all->group, sizeof all->group, "%.63s", file_place(group).text); }
    all->total_bytes = smaller(all->total_bytes, limit);
    all->free_bytes = smaller(all->free_bytes, limit - smaller(used, limit));
}

// Limits of the process's group and of those above it. A container may see only its own, at the top.
static void apply_limits(const Version *v, const char *root, char *group, Limits *all) {
    for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
        *end = 0;
        apply_limit(v, path_of("%s/sys/fs/cgroup%s%s", root, v->folder, group).text, all);
    }
}

static Limits read_limits(const char *root) {
    Limits all = {.free_bytes = SIZE_MAX, .total_bytes = SIZE_MAX};
    FILE *file = fopen(path_of("%s/proc/self/cgroup", root).text, "r");
    char line[4096];
    while (file && fgets(line, sizeof line, file)) { // "4:memory:/path", "0::/path"
        line[strcspn(line, "\n")] = 0;
        for (int i = 0; i < 2; i++) {
            char *mark = strstr(line, versions[i].mark);
            bool ours = mark && mark == (i == 0 ? line : strchr(line, ':'));
            if (ours) { apply_limits(&versions[i], root, mark + strlen(versions[i].mark), &all); }
        }
    }
    if (file) { fclose(file); }
    return all;
}

void memory_group(const char *root, char group[64]) { strcpy(group, read_limits(root).group); }

// One of `sharers` equal parts.
static size_t part_of(size_t bytes, int sharers) { return sharers > 1 ? bytes / (size_t)sharers : bytes; }

void memory_available(const char *root, MemorySharers sharers, size_t *free_bytes, size_t *total_bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    Path info = path_of("%s/proc/meminfo", root);
    size_t available = number_in(info.text, "MemAvailable:"), all = number_in(info.text, "MemTotal:");
    available = available < SIZE_MAX ? available << 10 : (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
    all = all < SIZE_MAX ? all << 10 : (size_t)sysconf(_SC_PHYS_PAGES) * page;
    Limits limits = read_limits(root);
    *free_bytes = smaller(part_of(available, sharers.machine), part_of(limits.free_bytes, sharers.group));
    *total_bytes = smaller(part_of(all, sharers.machine), part_of(limits.total_bytes, sharers.group));
}
