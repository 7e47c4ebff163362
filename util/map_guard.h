// Files that are read through a map instead of copied: what happens if they change meanwhile.
#pragma once

// From now on, reading a mapped page that the file no longer has ends the program with a sentence that names the file,
// and exit code 1. Without this the kernel's SIGBUS would end it without a word. May be called many times.
void map_guard(void);
