#include "train/record.h"
#include "util/error.h"
#include <math.h>
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

static bool same(const Option *row, yajl_val value) {
    switch (row->kind) {
    case OPT_STRING: {
        const char *mine = *(char **)row->value, *theirs = YAJL_GET_STRING(value);
        return mine && theirs ? strcmp(mine, theirs) == 0 : !mine && !theirs;
    }
    case OPT_DOUBLE:
        if (isnan(*(double *)row->value)) { return !YAJL_IS_NUMBER(value); } // recorded as null
        return YAJL_IS_NUMBER(value) && strtod(YAJL_GET_NUMBER(value), NULL) == *(double *)row->value;
    case OPT_LONG:
        return YAJL_IS_INTEGER(value) && YAJL_GET_INTEGER(value) == *(long long *)row->value;
    case OPT_INT:
    case OPT_FLAG:
        return YAJL_IS_INTEGER(value) && YAJL_GET_INTEGER(value) == *(int *)row->value;
    default:
        return true;
    }
}

static const char *text_of(yajl_val value) {
    return YAJL_IS_STRING(value) ? YAJL_GET_STRING(value) : YAJL_IS_NUMBER(value) ? YAJL_GET_NUMBER(value) : "none";
}

void record_check(const TrainOptions *options, yajl_val recorded, const char *path) {
    if (!recorded) { die("%s: field \"options\" is missing", path); }
    for (const Option *row = options->table; row->kind != OPT_END; row++) {
        if (row->kind == OPT_HEADING || row->may_change) { continue; }
        const char *field[] = {row->name, NULL};
        yajl_val value = yajl_tree_get(recorded, field, yajl_t_any);
        if (!value) {
            die("%s: field \"%s\" is missing: the checkpoint is of another version of cocogold", path, row->name);
        }
        if (!same(row, value)) {
            die("--resume: --%s differs from what %s recorded (%s)", row->name, path, text_of(value));
        }
    }
}
