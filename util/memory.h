// The main memory that this process may take.
#pragma once
#include <stddef.h>

// Processes that plan with equal parts of the machine's memory, and of the control group's. 0 or 1: only this one.
typedef struct {
    int machine, group;
} MemorySharers;

// This process's part of what is free and of what there is: MemAvailable and MemTotal of /proc/meminfo, or less if a
// control group that the process is in (a container, a job of a batch system) has a limit. `root` stands for /: "", or
// a test's folder.
void memory_available(const char *root, MemorySharers sharers, size_t *free_bytes, size_t *total_bytes);
// The group with the smallest limit: the same text for all processes of the machine that share it; "": none.
void memory_group(const char *root, char group[64]);
