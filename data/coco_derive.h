// `area` and `bbox` of annotations can be computed from the mask, and are where the file has none or wrong ones.
#pragma once
#include "data/coco.h"

// For every segment: if area or bbox is missing, not finite, not positive, or far from the mask's, both get the mask's:
// its number of pixels and pycocotools' toBbox. Far: an edge that is off by more than 4 pixels and 10% of the side; an
// area off by more than 16 pixels and half of it. Those that were given and wrong are added to coco->computed.
void coco_derive(Coco *coco);
