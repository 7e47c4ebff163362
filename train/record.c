#include "train/record.h"
#include "util/error.h"
#include <stdlib.h>
#include <string.h>

void record_options(const TrainOptions *options, yajl_gen gen) {
    for (const Option *row = options->table; row->kind != OPT_END; row++) {
        switch (row->kind) {
        case OPT_STRING:
            json_put_string(gen, row->name, *(char **)row->value);
            break;
        case OPT_DOUBLE:
            json_put_number(gen, row->name, *(double *)row->value);
            break;
        case OPT_LONG:
            json_put_integer(gen, row->name, *(long long *)row->value);
            break;
        case OPT_INT:
        case OPT_FLAG:
            json_put_integer(gen, row->name, *(int *)row->value);
            break;
        default:
            break;
        }
    }
}

static const char *text_of(yajl_val value) {
    return YAJL_IS_STRING(value) ? YAJL_GET_STRING(value) : YAJL_IS_NUMBER(value) ? YAJL_GET_NUMBER(value) : "none";
}

void record_check(const TrainOptions *options, yajl_val recorded, const char *path) {
    if (!recorded) { die("%s: field \"options\" is missing", path); }
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    record_options(options, gen);
    yajl_gen_map_close(gen);
    yajl_val mine = json_written(gen);
    for (const Option *row = options->table; row->kind != OPT_END; row++) {
        if (row->kind == OPT_HEADING || row->may_change) { continue; }
        const char *field[] = {row->name, NULL};
        yajl_val value = yajl_tree_get(recorded, field, yajl_t_any), now = yajl_tree_get(mine, field, yajl_t_any);
        if (!value) {
            die("%s: field \"%s\" is missing: the checkpoint is of another version of cocogold", path, row->name);
        }
        if (value->type == now->type && strcmp(text_of(value), text_of(now)) == 0) { continue; }
        // A default may depend on options that may change.
        char *give = YAJL_IS_NUMBER(value) && row->kind != OPT_FLAG
                         ? xprintf(": give --%s %s", row->name, text_of(value))
                         : xstrdup("");
        die("--resume: --%s differs from what %s recorded (%s)%s", row->name, path, text_of(value), give);
    }
    yajl_tree_free(mine);
    yajl_gen_free(gen);
}
