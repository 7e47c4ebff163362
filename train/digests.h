// The digests of a folder's files, in a list that `sha256sum --check` understands.
#pragma once

// Writes FOLDER/NAME: the SHA-256 of every other file in the folder, except segmentation.json, which eval --tune-on may
// write later. Dies if a file cannot be read.
void digests_write(const char *folder, const char *name);
// NULL if every file in the list is as it was, and the list has all .safetensors files; else what is wrong, to be
// freed: "unet/x: ...".
char *digests_check(const char *folder, const char *name);
