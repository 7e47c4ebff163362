// The kernel lab: numbered versions of a kernel, from a naive one to the one that the models use. The last version is
// kernels.h's own function; the earlier ones are in bench/lab/LAYER.cu and exist where .cu files are built (cuda and
// emu).
#pragma once
#include "bench/bench.h"

enum { LAB_VERSIONS = 8 };

// One version at one shape, while it runs.
typedef struct {
    Bench *bench;
    Device *dev;
    int version, last; // from 1
    const int *size;   // in the order of the layer's sizes
    void *data;        // from make, for call and error
} Lab;

typedef struct {
    const char *layer, *function;           // on the command line; of kernels.h
    const char *sizes;                      // as in BenchLayer
    int shape[MAX_SIZES];                   // from SD2's training step: the default of --version
    int small[MAX_SIZES];                   // the default with --check, and where threads are emulated
    const char *versions[LAB_VERSIONS + 1]; // what each is; NULL after the last
    void (*make)(Lab *lab);                 // tensors
    void (*call)(const Lab *lab);           // one call of the version; in plan-only mode, of the last one
    double (*error)(const Lab *lab);        // relative error of the call's result against sums in double
} LabLayer;

extern const LabLayer lab_layers[]; // ends with layer NULL

typedef struct {
    double error;
    BenchResult timing; // seconds 0: not timed
} LabResult;

int lab_last(const LabLayer *layer);
bool lab_has_steps(void); // whether this build has versions before the last
double lab_tolerance(void);
LabResult lab_run(Bench *b, const LabLayer *layer, int version, const int *size, bool timed);

// A function in PyTorch on this GPU: seconds of a call and the name of the row; or 0 and why there is no time.
typedef struct {
    double seconds;
    char name[96];
} TorchTime;
TorchTime torch_time(const LabLayer *layer, const int *size, int runs); // starts python3, if there is one

const LabLayer *lab_find(const char *name); // dies if it has no versions
// cocogold bench LAYER --version N|all: checks, times and prints; on a GPU, all of them with a row for PyTorch. size:
// NULL for the lab's own shape. Dies after the table if a version is wrong.
void lab_command(Bench *b, const LabLayer *layer, const char *version, const int *size, bool timed);
