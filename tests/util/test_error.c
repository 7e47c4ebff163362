// error.h: of several threads that die, one says its sentence and ends the process.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include "tests/dies.h"

enum { THREADS = 8 };

static pthread_barrier_t together;

static void *die_together(void *number) {
    pthread_barrier_wait(&together);
    die("thread %d of several", (int)(intptr_t)number);
}

static void die_at_once(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&together, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) { pthread_create(&threads[i], NULL, die_together, (void *)(intptr_t)i); }
    pthread_join(threads[0], NULL);
}

static void test_at_once(void **state) {
    (void)state;
    assert_dies("of several", die_at_once());
}

// What exit() ends may be in use by another thread, which then fails too.
static void let_the_other_fail(void) {
    pthread_barrier_wait(&together);
    usleep(100000);
}

static void die_beside_another(void) {
    pthread_t other;
    pthread_barrier_init(&together, NULL, 2);
    pthread_create(&other, NULL, die_together, NULL);
    atexit(let_the_other_fail);
    die("the first sentence");
}

static void test_at_exit(void **state) {
    (void)state;
    assert_dies("the first sentence", die_beside_another());
}

static void die_again(void) { die("the second sentence"); }

// What the thread itself calls at the end may fail, too.
static void test_again(void **state) {
    (void)state;
    char said[256];
    int code;
    run_in_child(code, said, sizeof said, atexit(die_again), die("the first sentence"));
    assert_int_equal(code, 1);
    assert_string_equal(said, "cocogold: the first sentence\ncocogold: the second sentence\n");
}

static pid_t parent;

static void only_for_the_parent(void) {
    if (getpid() != parent) { fprintf(stderr, "the child ends what is its parent's\n"); }
}

// assert_dies itself: what the parent has opened, such as a GPU, the child does not close.
static void test_child(void **state) {
    (void)state;
    parent = getpid();
    atexit(only_for_the_parent);
    assert_dies("the child's sentence", die("the child's sentence"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_at_once), cmocka_unit_test(test_at_exit),
                                       cmocka_unit_test(test_again), cmocka_unit_test(test_child)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
