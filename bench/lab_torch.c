// The kernel lab's row of PyTorch: bench/torch_gpu.py measures the same function at the same shape on the same GPU.
#include "bench/lab.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

// The script in the tree of the program build/BACKEND-PRECISION/cocogold, or in the bundle of PRECISION/cocogold.
static bool find_script(Path *script) {
    static const char *const roots[] = {"../..", ".."};
    char program[2048];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) { return false; }
    program[length] = 0;
    *strrchr(program, '/') = 0;
    for (int i = 0; i < 2; i++) {
        *script = path_of("%s/%s/bench/torch_gpu.py", program, roots[i]);
        if (file_exists(script->text)) { return true; }
    }
    return false;
}

// The child takes the signals that interrupt_start (util/interrupt.h) blocks or ignores here: Ctrl-C ends it too.
static void restore_signals(posix_spawnattr_t *attributes) {
    sigset_t blocked, handled;
    sigemptyset(&blocked);
    sigemptyset(&handled);
    sigaddset(&handled, SIGPIPE);
    sigaddset(&handled, SIGXFSZ);
    posix_spawnattr_init(attributes);
    posix_spawnattr_setsigmask(attributes, &blocked);
    posix_spawnattr_setsigdefault(attributes, &handled);
    posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

// Starts a command without stderr; its stdout can be read from the stream. NULL if it cannot be started.
static FILE *start(char *const command[], pid_t *child) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) { return NULL; }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    restore_signals(&attributes);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    bool started = posix_spawnp(child, command[0], &actions, &attributes, command, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    if (started) { return fdopen(ends[0], "r"); }
    close(ends[0]);
    return NULL;
}

// The last line of its output that begins an object; NULL if there is none.
static yajl_val json_of(char *const command[], bool *started) {
    pid_t child;
    FILE *output = start(command, &child);
    *started = output != NULL;
    if (!output) { return NULL; }
    char *line = NULL, reason[256];
    size_t size = 0;
    yajl_val last = NULL;
    while (getline(&line, &size, output) > 0) {
        if (*line != '{') { continue; }
        yajl_tree_free(last);
        last = json_parse(line, reason, sizeof reason);
    }
    free(line);
    fclose(output);
    waitpid(child, NULL, 0);
    return last;
}

TorchTime torch_time(const LabLayer *layer, const int *size, int runs) {
    TorchTime time = {.name = "PyTorch: bench/torch_gpu.py is missing"};
    Path script;
    if (!find_script(&script)) { return time; }
    char shape[96], *count = xprintf("%d", runs);
    format_shape(layer->sizes, size, shape);
    bool fp32 = sizeof(floatX) == sizeof(float), started;
    char *const command[] = {
        "python3", script.text, "--layer", (char *)layer->layer,   "--function", (char *)layer->function, "--shape",
        shape,     "--runs",    count,     fp32 ? "--fp32" : NULL, NULL};
    yajl_val said = json_of(command, &started);
    const char *name = json_string_at(said, "name"), *error = json_string_at(said, "error");
    time.seconds = json_number_at(said, "seconds");
    if (*name && time.seconds > 0) {
        snprintf(time.name, sizeof time.name, "PyTorch %s", name);
    } else {
        time.seconds = 0;
        const char *why = !started ? "not installed" : *error ? error : "bench/torch_gpu.py failed";
        snprintf(time.name, sizeof time.name, "PyTorch: %s", why);
    }
    yajl_tree_free(said);
    free(count);
    return time;
}
