// The main memory that this process may take.
#pragma once
#include <stddef.h>

// What is free and what there is: MemAvailable and MemTotal of /proc/meminfo, or less if a control group that the
// process is in (a container, a job of a batch system) has a limit. `root` stands for /: "", or a test's folder.
void memory_available(const char *root, size_t *free_bytes, size_t *total_bytes);
