// memory.h: the machine's memory, and limits of control groups.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include "tests/data/folder.h"
#include "util/memory.h"

static void check_part(const char *name, MemorySharers sharers, size_t free_bytes, size_t total_bytes) {
    size_t left, all;
    memory_available(folder, sharers, &left, &all);
    printf("  %-40s %zu of %zu\n", name, left, all);
    assert_true(left == free_bytes && all == total_bytes);
}

static void check(const char *name, size_t free_bytes, size_t total_bytes) {
    check_part(name, (MemorySharers){0}, free_bytes, total_bytes);
}

static void check_group(const char *group) {
    char found[64];
    memory_group(folder, found);
    assert_string_equal(found, group ? file_place(in_folder(group)).text : "");
}

static void write_group(const char *group, const char *limit, const char *usage, const char *stat, bool first_version) {
    const char *names[] = {first_version ? "memory.limit_in_bytes" : "memory.max",
                           first_version ? "memory.usage_in_bytes" : "memory.current", "memory.stat"};
    const char *const texts[] = {limit, usage, stat};
    make_folders(in_folder(group));
    for (int i = 0; i < 3; i++) {
        char *name = xprintf("%s/%s", group, names[i]);
        write_text(name, texts[i]);
        free(name);
    }
}

static void test_groups(void **state) {
    (void)state;
    make_folders(in_folder("proc/self"));
    write_text("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n");
    check("without groups", 600 << 10, 1000 << 10);
    check_part("one of four ranks", (MemorySharers){4, 4}, 150 << 10, 250 << 10);
    check_group(NULL);
    write_text("proc/self/cgroup", "0::/jobs/7\n");
    write_group("sys/fs/cgroup/jobs/7", "max\n", "5000\n", "anon 1\ninactive_file 10\nactive_file 5\n", false);
    check("a group without a limit", 600 << 10, 1000 << 10);
    write_group("sys/fs/cgroup/jobs/7", "300000\n", "120000\n", "anon 1\ninactive_file 10000\nactive_file 5000\n",
                false);
    check("pages of files count as free", 300000 - 120000 + 15000, 300000);
    check_part("two containers on a machine", (MemorySharers){2, 1}, 300000 - 120000 + 15000, 300000);
    check_part("two ranks in a container", (MemorySharers){2, 2}, (300000 - 120000 + 15000) / 2, 150000);
    check_part("ten containers, more than there is", (MemorySharers){10, 1}, 60 << 10, 100 << 10);
    check_group("sys/fs/cgroup/jobs/7");
    write_group("sys/fs/cgroup/jobs", "200000\n", "210000\n", "anon 1\n", false);
    check("the group above has less, and none left", 0, 200000);
    check_group("sys/fs/cgroup/jobs");
    write_text("proc/self/cgroup", "0::/elsewhere/7\n");
    write_group("sys/fs/cgroup", "400000\n", "1000\n", "anon 1\n", false);
    check("a container sees its own at the top", 399000, 400000);
    write_text("proc/self/cgroup", "9:name=systemd:/memory:/x\n4:memory:/jobs/8\n0::/\n");
    remove_tree(in_folder("sys/fs/cgroup/memory.max"));
    write_group("sys/fs/cgroup/memory/jobs/8", "500000\n", "200000\n", "total_inactive_file 1000\n", true);
    write_group("sys/fs/cgroup/memory", "9223372036854771712\n", "200000\n", "total_inactive_file 1000\n", true);
    check("version 1", 301000, 500000);
}

static void test_machine(void **state) {
    (void)state;
    size_t left, all;
    memory_available("", (MemorySharers){0}, &left, &all);
    printf("  this machine: %zu of %zu\n", left, all);
    assert_true(left > 0 && left <= all);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_groups), cmocka_unit_test(test_machine)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
