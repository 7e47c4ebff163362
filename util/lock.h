// A folder that only one process writes to.
#pragma once
#include <stdbool.h>

// Takes the folder until this process ends, however it ends. Dies with a sentence that names the process that has it.
// Works by a lock on FOLDER/.lock, which is removed at the end. Returns false where the file system has no locks: then
// nothing is known.
bool folder_lock(const char *folder);
