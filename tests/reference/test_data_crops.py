"""Crops, classes and masks of samples against a slow reference written from the rules alone."""

import json
import math
import subprocess
from collections import Counter
from fractions import Fraction

import pytest
from test_data_masks import SAMPLE, dump, needs_sample  # noqa: F401 (a fixture)

CROP_STREAM = 7
DEFAULT = ("car,dining table,chair,train,airplane,giraffe,clock,toilet,bed,bird,truck,cat,horse,dog")


class Philox:
    """Philox4x32-10, read word by word."""

    def __init__(self, seed, step, sample):
        self.key = seed & 0xFFFFFFFF, seed >> 32
        self.tail = [sample & 0xFFFFFFFF, (sample >> 32 & 0xFFFF) | CROP_STREAM << 16, step]
        self.words, self.block = [], 0

    def word(self):
        if not self.words:
            c, (k0, k1) = [self.block, *self.tail], self.key
            for _ in range(10):
                p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
                c = [p1 >> 32 ^ c[1] ^ k0, p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
                k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
            self.words, self.block = c, self.block + 1
        return self.words.pop(0)

    def below(self, n):
        return self.word() * n >> 32

    def between(self, low, high):
        return low + self.below(high - low + 1)

    def uniform(self):
        return ((self.word() >> 9) + 0.5) / 8388608


def touching(a, crop):
    """Exact area of the box inside the crop; None where they are apart."""
    x, y, w, h = map(Fraction, a["bbox"])
    dx = min(crop[0] + crop[2], x + w) - max(crop[0], x)
    dy = min(crop[1] + crop[2], y + h) - max(crop[1], y)
    return dx * dy if dx >= 0 and dy >= 0 else None


def usable(a, allowed):
    return a["category"] in allowed and not a["iscrowd"] and a["area"] > 0 and a["bbox"][2] > 0 and a["bbox"][3] > 0


def valid(a, crop, allowed):
    inside = touching(a, crop) if usable(a, allowed) else None
    if inside is None:
        return False
    box = Fraction(a["bbox"][2]) * Fraction(a["bbox"][3])
    return inside >= box * Fraction(0.75) or inside >= crop[2] ** 2 * Fraction(15, 100)


def plan(image, annotations, names, allowed, seed, run, smallest_side, absent):
    width, height = image["width"], image["height"]
    if min(width, height) < smallest_side:
        return "too_small",
    if not annotations:
        return "unlabelled",
    if not any(usable(a, allowed) for a in annotations):
        return "only_crowd" if any(a["category"] in allowed for a in annotations) else "no_class",
    random, side, axis = Philox(seed, run, image["id"]), min(width, height), 0 if width > height else 1
    free = max(width, height) - side

    def crop_at(start):
        return (start, 0, side) if axis == 0 else (0, start, side)

    chosen = None
    for _ in range(5):
        crop = crop_at(random.between(0, free))
        good = [a for a in annotations if valid(a, crop, allowed)]
        if good:
            least = min(a["area"] for a in good)
            tickets = [a for a in good for _ in range(round(1 + math.log2(a["area"] / least)))]
            chosen = tickets[random.below(len(tickets))]
            break
    else:
        for a in annotations:
            if not usable(a, allowed):
                continue
            begin, length = math.floor(a["bbox"][axis]), round(a["bbox"][axis + 2])
            starts = range(0, begin + 1) if free > begin else range(begin - side + length, free + 1)
            starts = [s for s in starts if 0 <= s <= free] or [max(0, min(begin, free))]
            crop = crop_at(starts[random.below(len(starts))])
            if valid(a, crop, allowed):
                chosen = a
                break
    if chosen is None:
        return "cut_off",
    flags = [valid(a, crop, allowed) and a["category"] == chosen["category"] for a in annotations]
    category, is_absent = chosen["category"], False
    if random.uniform() < absent:
        there = {a["category"] for a in annotations if touching(a, crop) is not None}
        missing = [n for n in names if n in allowed and n not in there]
        if missing:
            category, is_absent, flags = missing[random.below(len(missing))], True, [False] * len(flags)
    return "ok", category, *crop, is_absent, flags


def read(path, panoptic):
    data = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    per_image = {image["id"]: [] for image in data["images"]}
    for a in data["annotations"]:
        for s in a["segments_info"] if panoptic else [a]:
            per_image[a["image_id"]].append({**s, "category": names[s["category_id"]]})
    return data["images"], per_image, list(names.values())


def compare(dump, folder, split, source, classes, seed, passes, smallest_side, absent):
    path = folder / "annotations" / f"{source}_{split}.json"
    images, annotations, names = read(path, source == "panoptic")
    allowed = set(names) if classes == "all" else set((DEFAULT if classes == "default14" else classes).split(","))
    lines = subprocess.run([dump, "plan", folder, split, source, classes, *map(str, [seed, passes, smallest_side,
                            absent])], check=True, capture_output=True, text=True).stdout.splitlines()
    reasons = Counter()
    for run in range(passes):
        for image in images:
            ours = lines.pop(0).split("\t")
            reason, *rest = plan(image, annotations[image["id"]], names, allowed, seed, run, smallest_side, absent)
            reasons[reason] += 1
            assert ours[:3] == [str(run), str(image["id"]), reason]
            if reason == "ok":
                category, x, y, side, is_absent, flags = rest
                expected = [category, *map(str, [x, y, side, int(is_absent)]), "".join("01"[f] for f in flags)]
                assert ours[3:] == expected, image["id"]
    assert not lines
    print(f"{path.name} {classes}: identical in {dict(reasons)}")
    return reasons


@needs_sample
@pytest.mark.parametrize("classes", ["default14", "all", "person", "tie,sports ball"])
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_sample_instances(dump, split, classes):
    compare(dump, SAMPLE, split, "instances", classes, 2024, 3, 300, 0)


@needs_sample
def test_sample_panoptic_and_absent(dump):
    compare(dump, SAMPLE, "val2017", "panoptic", "all", 2 ** 40 + 5, 4, 100, 0)
    compare(dump, SAMPLE, "val2017", "instances", "default14", 1, 4, 300, 0.3)


def test_awkward_boxes(dump, tmp_path):
    """Long pictures and many small boxes, some beyond the border: every reason and retry occurs."""
    import random
    rng, images, annotations = random.Random(5), [], []
    for i in range(600):
        width, height = rng.choice([(900, 40), (50, 700), (64, 64), (300, 200), (640, 80)])
        images.append({"id": 10 ** 11 + i, "file_name": f"{i}.jpg", "width": width, "height": height})
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            w, h = (rng.choice([6, 9.5, 38.4, rng.uniform(6, n)]) for n in (width, height))
            w, h = min(w, width), min(h, height)
            x, y = rng.uniform(-0.4, width - w + 0.4), rng.uniform(-0.4, height - h + 0.4)
            annotations.append({"id": len(annotations), "image_id": 10 ** 11 + i, "category_id": rng.randint(1, 4),
                                "iscrowd": int(rng.random() < 0.2), "area": w * h * rng.uniform(0.9, 1.1),
                                "bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    (tmp_path / "annotations").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "annotations" / "instances_odd.json").write_text(json.dumps(
        {"images": images, "annotations": annotations,
         "categories": [{"id": i, "name": n} for i, n in enumerate(["none", "a", "b", "c", "d"])]}))
    reasons = compare(dump, tmp_path, "odd", "instances", "a,b,c", 77, 2, 45, 0.25)
    assert all(reasons[r] for r in ("ok", "too_small", "unlabelled", "no_class", "only_crowd", "cut_off"))
