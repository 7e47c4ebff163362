// `area` and `bbox` of annotations can be computed from the mask, and are where the file has none or wrong ones.
#pragma once
#include "data/coco.h"

// For every segment: if area or bbox is missing, not finite, not positive, or far from the mask's, both get the mask's:
// its number of pixels and pycocotools' toBbox. Far: an edge that is off by more than 4 pixels and 10% of the side; an
// area off by more than 16 pixels and half of it. Those that were given and wrong are added to coco->computed. Values
// of crowds that are there are not compared; those of panoptic segments only if the box leaves the picture or the area
// exceeds 1.5 boxes, since that needs the PNG. A segment whose mask turns out to be empty is left out: it becomes
// SEGMENT_NO_MASK. What has no mask gets the picture's area and box where it has none.
void coco_derive(Coco *coco);
