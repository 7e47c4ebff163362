#include "train/run_folder.h"
#include "util/error.h"
#include "util/file.h"
#include "util/lock.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Keeps the log's lines up to the checkpoint's step, and drops incomplete lines. Returns whether that step's validation
// is among them.
static bool cut_log(const char *path, int last_step) {
    if (!file_exists(path)) { return false; }
    bool validated = false;
    char *text = read_file(path, NULL), *rest = text, *end = text; // kept lines move up in place
    for (char *line; (line = strsep(&rest, "\n"));) {
        const char *field = strstr(line, "\"step\":");
        size_t length = strlen(line);
        if (!length || line[length - 1] != '}' || (field && atoi(field + 7) > last_step)) { continue; }
        validated |= field && atoi(field + 7) == last_step && strstr(line, "\"kind\":\"validation\"");
        memmove(end, line, length);
        end[length] = '\n';
        end += length + 1;
    }
    atomic_write(path, text, (size_t)(end - text));
    free(text);
    return validated;
}

static bool exists(const char *out, const char *name) {
    char *path = xprintf("%s/%s", out, name);
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

static void clear_folder(const char *out) {
    static const char *const ours[] = {"tensorboard", "samples", "validation", "model", "log.jsonl", NULL};
    checkpoint_remove_all(out);
    for (int i = 0; ours[i]; i++) {
        char *path = xprintf("%s/%s", out, ours[i]);
        remove_tree(path);
        free(path);
    }
}

// Whether the log is that of a run, or empty: the run was killed before the first line.
static bool is_log(const char *path) {
    char begin[9] = "";
    FILE *file = fopen(path, "r");
    if (!file) { return false; }
    size_t length = fread(begin, 1, 8, file);
    fclose(file);
    return length == 0 || strcmp(begin, "{\"kind\":") == 0;
}

// What a command wrote has a log, which is deleted last. An empty folder is as good; hidden files do not count.
static bool may_overwrite(const char *out, const char *log_path) {
    DIR *entries = opendir(out);
    bool empty = true;
    for (struct dirent *e; entries && (e = readdir(entries));) { empty &= e->d_name[0] == '.'; }
    if (entries) { closedir(entries); }
    return empty || is_log(log_path);
}

// Whether an option's value names something in `out`: the folder itself, or lists @FILE, separated by |.
static bool reads_in(const char *value, bool folder, const char *out) {
    if (folder && path_inside(value, out)) { return true; }
    char *parts = xstrdup(value), *rest = parts;
    bool found = false;
    for (char *part; (part = strsep(&rest, "|"));) { found |= part[0] == '@' && path_inside(part + 1, out); }
    free(parts);
    return found;
}

// --overwrite must not delete what the run reads, nor what no run has written.
static void check_overwrite(const TrainOptions *o, const char *log_path) {
    static const char *const folders[] = {"model", "shards", "data"};
    for (const Option *row = o->table; row->kind != OPT_END; row++) {
        const char *value = row->kind == OPT_STRING ? *(char **)row->value : NULL;
        bool folder = false;
        for (int i = 0; value && i < 3; i++) { folder |= strcmp(row->name, folders[i]) == 0; }
        if (!value || !reads_in(value, folder, o->out)) { continue; }
        die("--overwrite: --%s %s lies in --out %s, which would be deleted", row->name, value, o->out);
    }
    if (!may_overwrite(o->out, log_path)) {
        die("--overwrite: --out %s holds files, but not a run (no log.jsonl): expected another folder", o->out);
    }
}

// Rank 0 may start to write only after all others have read the folder.
static void agree(const RunFolder *run, Comm *comm) {
    int first_step = run->first_step;
    comm_host_broadcast(comm, &first_step, sizeof first_step, 0);
    if (first_step != run->first_step) {
        die("--out %s: the newest checkpoint is of step %d here, but of step %d on rank 0: expected the same folder "
            "on all ranks",
            run->options->out, run->first_step, first_step);
    }
    comm_barrier(comm);
}

// A run that begins, also with --resume, must not replace a model, nor a log unless a run without a checkpoint left it.
static void check_start(const TrainOptions *o, const char *log_path) {
    bool log = exists(o->out, "log.jsonl"), ours = log && is_log(log_path);
    const char *or_delete = ours ? ", or delete the run with --overwrite" : "";
    if (exists(o->out, "model")) {
        die("%s: holds a model, but no checkpoint to go on from: give another folder%s", o->out, or_delete);
    }
    if (log && !(ours && o->resume)) {
        die("%s: holds a log.jsonl, but no checkpoint to go on from: give another folder%s", o->out, or_delete);
    }
}

static RunFolder find_run(const TrainOptions *o, const Comm *comm) {
    RunFolder run = {
        .options = o, .log_path = xprintf("%s/log.jsonl", o->out), .rank = comm->rank, .world = comm->world};
    if (o->resume && o->overwrite) { die("--resume and --overwrite: expected only one of them"); }
    char *other = checkpoint_other(o->out); // a checkpoint of this run would replace it
    if (other) {
        die("%s: has a checkpoint's name, but no run wrote it: move it away, or give another folder as --out", other);
    }
    if (o->overwrite) {
        check_overwrite(o, run.log_path);
        return run;
    }
    run.checkpoint = checkpoint_newest(o->out, &run.first_step);
    if (!run.checkpoint) {
        check_start(o, run.log_path);
        return run;
    }
    if (!o->resume) {
        die("%s: already holds a run: continue it with --resume, or delete it with --overwrite", o->out);
    }
    if (comm->rank == 0) { checkpoint_want_whole(o->out); }
    checkpoint_check_command(o->command, run.checkpoint);
    printf("resuming from %s\n", run.checkpoint);
    return run;
}

RunFolder run_folder_open(const TrainOptions *o, Comm *comm) {
    bool locked = false;
    if (comm->rank == 0) {
        want_folder(o->out);
        locked = folder_exists(o->out) && folder_lock(o->out);
    }
    RunFolder run = find_run(o, comm);
    run.locked = locked;
    agree(&run, comm);
    if (locked) { checkpoint_remove_leftovers(o->out); }
    if (locked && !run.checkpoint && !o->overwrite) { check_start(o, run.log_path); } // an old model has its name back
    return run;
}

void run_folder_close(RunFolder *run) {
    free(run->log_path);
    free(run->checkpoint);
}

const char *run_folder_base(const RunFolder *run) { return run->checkpoint ? run->checkpoint : run->options->model; }

void run_folder_begin(RunFolder *run) {
    static const char *const folders[] = {"samples", "validation"};
    const char *out = run->options->out;
    if (run->rank > 0) { return; }
    make_folders(out);
    if (!run->locked && folder_lock(out) && exists(out, "log.jsonl") && !run->options->overwrite) {
        die("%s: holds a run that began at the same time: give another folder", out);
    }
    if (run->options->overwrite) { clear_folder(out); }
    if (run->checkpoint) {
        run->validated = cut_log(run->log_path, run->first_step);
    } else {
        remove_tree(run->log_path);
    }
    for (int i = 0; i < 2; i++) {
        Path folder = path_of("%s/%s", out, folders[i]);
        make_folders(folder.text);
        remove_temporaries(folder.text);
    }
}

void run_folder_publish(const RunFolder *run, const Trained *trained, int step) {
    const TrainOptions *o = run->options;
    if (run->rank > 0 || step < o->max_train_steps) { return; }
    // Whoever has added something to the model, such as thresholds, keeps it.
    bool there = step == run->first_step && checkpoint_is_published(run->checkpoint, trained, o->out);
    if (!there) { checkpoint_publish(run->checkpoint, o->out); }
    printf("the model is in %s/model\n", o->out);
}
