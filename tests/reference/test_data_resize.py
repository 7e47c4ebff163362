"""Resampling against Pillow; the box average of masks against exact rational arithmetic."""

import subprocess
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from PIL import Image
from test_data_masks import SAMPLE, dump, needs_sample  # noqa: F401 (a fixture)

FILTERS = {"lanczos": Image.LANCZOS, "bilinear": Image.BILINEAR, "box": Image.BOX}


def pillow(picture, x, y, w, h, size, filter):
    """One axis at a time, rows first: what Pillow did in one call up to version 12 (13 swaps the axes for some shapes)."""
    rows = picture.resize((size[0], picture.size[1]), filter, box=(x, 0, x + w, picture.size[1]))
    return rows.resize(size, filter, box=(0, y, size[0], y + h))


def compare(dump, tmp_path, picture, box, size, name):
    picture.save(tmp_path / "in.png")
    x, y, w, h = box
    subprocess.run([dump, "resize", tmp_path / "in.png", tmp_path / "out.png", *map(repr, map(float, box)),
                    *map(str, size), name], check=True)
    ours = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    theirs = np.asarray(pillow(picture, x, y, w, h, size, FILTERS[name])).astype(int)
    worst = np.abs(ours - theirs).max()
    print(f"{picture.size} box {box} -> {size} {name}: largest difference {worst}")
    assert worst == 0


@pytest.mark.parametrize("seed", range(12))
def test_random_pictures(dump, tmp_path, seed):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(5, 200, 2)
    picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    side = int(min(width, height))
    whole = (int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1)), side, side)
    part = (width // 8 + 0.25, height // 4 + 0.5, width // 2 + 0.5, height // 3 + 0.125)  # exact in Pillow's floats
    for name in FILTERS:
        compare(dump, tmp_path, picture, whole, (64, 64), name)
        compare(dump, tmp_path, picture, part, tuple(int(n) for n in rng.integers(1, 150, 2)), name)


@needs_sample
def test_photographs(dump, tmp_path):
    for path in sorted((SAMPLE / "train2017").glob("*.jpg"))[:6]:
        picture = Image.open(path).convert("RGB")
        side = min(picture.size)
        for size in (512, 64):
            box = (picture.size[0] - side, picture.size[1] - side, side, side)
            compare(dump, tmp_path, picture, box, (size, size), "lanczos")


def exact_shrink(mask, x, y, side, size):
    """Each output pixel: at least half of its area is mask. Whole numbers and fractions only."""
    scale = Fraction(side, size)

    def weights(begin):
        return [[(j, min(Fraction(j + 1), b + scale) - max(Fraction(j), b)) for j in range(floor(b), ceil(b + scale))]
                for b in (begin + i * scale for i in range(size))]

    columns, rows = weights(Fraction(x)), weights(Fraction(y))
    out = np.zeros((size, size), np.uint8)
    for i, row in enumerate(rows):
        for k, column in enumerate(columns):
            share = sum(a * b for j, a in row for l, b in column if mask[j, l])
            out[i, k] = share * 2 >= scale * scale
    return out


@pytest.mark.parametrize("seed", range(10))
def test_masks(dump, seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(3, 60, 2))
    mask = (rng.random((height, width)) < rng.choice([0.1, 0.5, 0.9])).astype(np.uint8)
    side, size = min(width, height), int(rng.integers(1, 40))
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    text = subprocess.run([dump, "shrink", *map(str, [x, y, side, side, size, size, width, height])],
                          input=mask.tobytes(), check=True, capture_output=True).stdout
    ours = np.frombuffer(text, np.uint8).reshape(size, size)
    theirs = exact_shrink(mask, x, y, side, size)
    print(f"{side} -> {size}: {int((ours != theirs).sum())} pixels differ of {size * size}")
    assert (ours == theirs).all()
