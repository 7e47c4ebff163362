// Lists of classes on the command line, and the classes that are asked for without one.
#pragma once
#include "data/coco.h"

#define DEFAULT_CLASS_COUNT 14
extern const char *const default_classes[DEFAULT_CLASS_COUNT]; // the original's list; `person` is left out on purpose

#define CLASSES_HELP "default14 | all | all-things | NAME,NAME,... | @FILE (one name a line)"

// Parses such a text into one flag per category of the dataset, freed by the caller. *count (may be NULL) gets the
// number of chosen classes. Dies if the dataset lacks a name. option: "--classes", for messages.
bool *classes_parse(const Coco *coco, const char *option, const char *text, int *count);
// The same for what `encode` draws samples of: `list` (--classes), or if that is NULL all classes for texts (captions,
// phrases), for the training split those of the data set's classes/seen.txt or else default14, for others all things.
bool *classes_to_encode(const Coco *coco, const char *list, bool train, bool texts);
// The same for a plain list of names, all treated as things. where: the owner of these classes, for messages.
bool *classes_of_names(char *const *names, int name_count, const char *where, const char *option, const char *text);
