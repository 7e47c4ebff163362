"""Masks of every annotation against pycocotools; the panoptic PNG ids against Pillow."""

import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(os.environ.get("COCO_SAMPLE", ROOT.parent / "shared" / "coco_sample"))
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of COCO is not here")


@pytest.fixture(scope="session")
def dump():
    program = "build/cpu-fp32/tests/data/dump"
    subprocess.run(["make", "-s", "BACKEND=cpu", "PRECISION=fp32", program], cwd=ROOT, check=True)
    return ROOT / program


def runs_of(mask):
    """Lengths of the runs 0, 1, 0, ... in row order."""
    flat = mask.astype(np.uint8).ravel()
    borders = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    return np.diff(np.concatenate([[0], borders, [flat.size]])).tolist()


def dumped(dump, *arguments):
    text = subprocess.run([dump, "masks", *arguments], check=True, capture_output=True, text=True).stdout
    result = {}
    for line in text.splitlines():
        ident, category, image, *runs = map(int, line.split())
        result[image, ident] = category, runs
    return result


def reference_mask(segmentation, height, width):
    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, height, width)
        return coco_mask.decode(coco_mask.merge(parts))
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.decode(segmentation)


def compare(dump, path):
    data = json.loads(path.read_text())
    size = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    ours = dumped(dump, path)
    assert len(ours) == len(data["annotations"])
    for a in data["annotations"]:
        category, runs = ours[a["image_id"], a["id"]]
        assert category == a["category_id"]
        assert runs == runs_of(reference_mask(a["segmentation"], *size[a["image_id"]])), a["id"]
    print(f"{path.name}: {len(ours)} masks identical")


@needs_sample
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_every_instance_of_the_sample(dump, split):
    compare(dump, SAMPLE / "annotations" / f"instances_{split}.json")


def random_annotations(seed):
    """Polygons with long decimals, outside corners, repeated points; both RLE forms."""
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    images, annotations = [], []
    for image in range(40):
        height, width = rng.randint(1, 90), rng.randint(1, 90)
        images.append({"id": 1000 + image, "file_name": "x.jpg", "height": height, "width": width})
        for _ in range(8):
            form = rng.choice(["hundredths", "doubles", "runs", "text"])
            if form in ("runs", "text"):
                mask = np.asfortranarray(draw.random((height, width)) < rng.random(), dtype=np.uint8)
                code = coco_mask.encode(mask)
                segmentation = {"size": [height, width], "counts": code["counts"].decode()}
                if form == "runs":
                    segmentation["counts"] = [n for n in runs_of(mask.T)]
            else:
                segmentation = []
                for _ in range(rng.randint(1, 3)):
                    digits = 2 if form == "hundredths" else 13
                    polygon = [round(rng.uniform(-9, (width, height)[i % 2] + 9), rng.choice([0, 1, digits]))
                               for i in range(2 * rng.randint(3, 12))]
                    segmentation.append(polygon + polygon[:2] * rng.randint(0, 1))
            annotations.append({"id": len(annotations), "image_id": 1000 + image, "category_id": 7, "iscrowd": 0,
                                "area": 1, "bbox": [0, 0, 1, 1], "segmentation": segmentation})
    return {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "thing"}]}


@pytest.mark.parametrize("seed", range(6))
def test_random_polygons_and_runs(dump, tmp_path, seed):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(random_annotations(seed)))
    compare(dump, path)


@needs_sample
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_panoptic_ids(dump, split):
    path = SAMPLE / "annotations" / f"panoptic_{split}.json"
    folder = SAMPLE / "annotations" / f"panoptic_{split}"
    ours = dumped(dump, path, folder)
    count = 0
    for a in json.loads(path.read_text())["annotations"]:
        png = np.asarray(Image.open(folder / a["file_name"]).convert("RGB")).astype(np.int64)
        ids = png @ [1, 256, 65536]
        for s in a["segments_info"]:
            assert ours[a["image_id"], s["id"]] == (s["category_id"], runs_of(ids == s["id"]))
            count += 1
    assert count == len(ours)
    print(f"{path.name}: {count} masks identical")
