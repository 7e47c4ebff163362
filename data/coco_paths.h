// Where the pictures of a data set are. As in the wild, `file_name` may have folders, be absolute, have Windows'
// separators, or the split in front; LVIS has the end of a URL.
//
//   coco_picture_path   the first of these that is a file, else the first: PICTURES/NAME, NAME if it is absolute,
//                       PICTURES/REST where NAME is SPLIT/REST (or SPLIT2017/REST), DATA/NAME, DATA/images/NAME; then
//                       the same with backslashes as slashes, and with the end of coco_url as NAME; then PICTURES/END,
//                       where END is the last 16 characters of a name that starts with COCO_ (COCO's names until 2014,
//                       which LVIS v0.5 and RefCOCO have)
#pragma once
#include "data/coco.h"

// Where a picture's panoptic PNG is: IDS/NAME, where IDS is DATA/annotations/panoptic_SPLIT, or DATA/annotations/NAME,
// where NAME has the folder in front; then the same with backslashes as slashes. The caller frees it.
char *coco_ids_path(const Coco *coco, int picture);

// Absolute names, URLs and names that begin with ".." which lead to no file here come from another machine: the part
// after a folder with the split's name counts, else the last part, if no other picture has it. Both are in the folder
// of pictures.
void coco_place_foreign(Coco *coco);
