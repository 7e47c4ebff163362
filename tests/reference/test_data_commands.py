"""The commands stats and preview on the real sample: whole samples against pycocotools and Pillow, counts, messages."""

import json
import os
import subprocess
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from test_data_crops import DEFAULT, plan, read
from test_data_masks import ROOT, SAMPLE, needs_sample, reference_mask

COCOGOLD = os.environ.get("COCOGOLD", str(ROOT / "cocogold"))


def run(*arguments):
    return subprocess.run([COCOGOLD, *map(str, arguments)], capture_output=True, text=True)


def box_weights(size, side):
    """Overlaps of output pixels (side / size wide) with input pixels, in units of 1 / size."""
    i, j = np.arange(size, dtype=float)[:, None], np.arange(side)[None, :]  # exact: far below 2^53
    return np.maximum(0, np.minimum((j + 1) * size, (i + 1) * side) - np.maximum(j * size, i * side))


@needs_sample
@pytest.mark.parametrize("size", [64, 512])
def test_whole_samples(tmp_path, size):
    done = run("preview", "--data", SAMPLE, "--classes", "all-things", "--count", 40, "--size", size, "--dump", tmp_path,
               "--out", tmp_path / "sheet.png", "--pass", 3)
    assert done.returncode == 0, done.stderr
    data = json.loads((SAMPLE / "annotations" / "instances_train2017.json").read_text())
    images, annotations, names = read(SAMPLE / "annotations" / "instances_train2017.json", False)
    images = {image["id"]: image for image in images}
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert len(samples) == 40 and len(data["images"]) == len(images)
    worst = 0
    for s in samples:
        image, mine = images[s["image_id"]], annotations[s["image_id"]]
        _, category, x, y, side, _, flags = plan(image, mine, names, set(names), 2024, 3, 300, 0)
        assert (s["class"], s["crop"]) == (category, [x, y, side])
        whole = np.zeros((image["height"], image["width"]), np.uint8)
        for a, flag in zip(mine, flags):
            if flag:
                whole |= reference_mask(a["segmentation"], *whole.shape)
        weights = box_weights(size, side)
        shares = weights @ whole[y:y + side, x:x + side] @ weights.T  # in units of 1 / size^2, all of a pixel is side^2
        expected = 2 * shares >= side * side
        read_back = np.asarray(Image.open(tmp_path / f"{s['image_id']}_mask.png"))[..., 0] == 255
        assert (read_back == expected).all()
        assert abs(expected.mean() - s["area"]) < 1e-6
        picture = Image.open(SAMPLE / "train2017" / image["file_name"]).convert("RGB").crop((x, y, x + side, y + side))
        ours = np.asarray(Image.open(tmp_path / f"{s['image_id']}_image.png")).astype(float)
        error = np.abs(ours - np.asarray(picture.resize((size, size), Image.LANCZOS))).mean()
        worst = max(worst, error)  # two JPEG decoders differ in how they enlarge chroma
        target = np.asarray(Image.open(tmp_path / f"{s['image_id']}_target.png"))
        assert (target[expected] == 255).all() and (target[~expected] == ours[~expected]).all()
    print(f"40 masks identical at {size} px; pictures: worst mean difference {worst:.2f} levels of 255")
    assert worst < 2


@needs_sample
def test_counts(tmp_path):
    done = run("stats", "--data", SAMPLE, "--classes", "default14", "--passes", 2, "--json", tmp_path / "s.json",
               "--image", tmp_path / "s.png")
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "s.json").read_text())
    images, annotations, names = read(SAMPLE / "annotations" / "instances_train2017.json", False)
    allowed, drawn, reasons = set(DEFAULT.split(",")), Counter(), Counter()
    for pass_number in range(2):
        for image in images:
            reason, *rest = plan(image, annotations[image["id"]], names, allowed, 2024, pass_number, 300, 0)
            reasons[reason] += 1
            drawn[rest[0] if rest else None] += 1
    assert {r: n for r, n in stats["reasons"].items() if n} == dict(reasons)
    assert {c["name"] for c in stats["classes"]} == allowed
    for c in stats["classes"]:
        mine = [a for anns in annotations.values() for a in anns if a["category"] == c["name"]]
        assert c["samples"] == drawn[c["name"]]
        assert c["instances"] == sum(not a["iscrowd"] for a in mine)
        assert c["crowds"] == sum(a["iscrowd"] for a in mine)
        assert c["pictures"] == len({a["image_id"] for a in mine})
        assert f"{c['name']:24} {c['samples']:9}" in done.stdout
    assert Image.open(tmp_path / "s.png").size[0] == 960


@needs_sample
@pytest.mark.parametrize("arguments, expected", [
    (["stats"], "--data is missing"),
    (["stats", "--data", "/nowhere"], "/nowhere: is not a folder"),
    (["stats", "--data", SAMPLE, "--split", "test"], "neither instances_test.json nor panoptic_test.json"),
    (["stats", "--data", SAMPLE, "--classes", "dog,unicorn"], 'class "unicorn" is not among the 80 categories'),
    (["stats", "--data", SAMPLE, "--passes", "0"], "--passes 0: expected"),
    (["stats", "--data", SAMPLE, "--image", "/nowhere/x.png"], "/nowhere/x.png"),
    (["preview", "--data", SAMPLE], "--out is missing"),
    (["preview", "--data", SAMPLE, "--out", "x.gif", "--count", "1"], "ends in .png or .jpg"),
    (["preview", "--data", SAMPLE, "--out", "x.png", "--min-side", "5000"], "no picture yields a sample"),
    (["preview", "--data", SAMPLE, "--out", "x.png", "--color", "greyish"], "--color greyish"),
    (["preview", "--data", SAMPLE, "--out", "x.png", "--target", "both"], "expected one of overlay, mask"),
])
def test_messages(tmp_path, arguments, expected):
    done = subprocess.run([COCOGOLD, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert expected in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_damaged_pictures_are_counted(tmp_path):
    """stats --check goes on past what it cannot read, and names it; so does preview."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "few").mkdir()
    images, annotations = [], []
    for i, what in enumerate(["good", "cut", "missing", "other size", "tiny object"]):
        images.append({"id": i, "file_name": f"{i}.png", "width": 400, "height": 320})
        side = 1 if what == "tiny object" else 100
        corners = [10, 10, 10 + side, 10, 10 + side, 10 + side, 10, 10 + side]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": side * side,
                            "bbox": [10, 10, side, side], "segmentation": [corners]})
        noise = np.random.default_rng(i).integers(0, 256, (320 - (what == "other size"), 400, 3), dtype=np.uint8)
        path = tmp_path / "few" / f"{i}.png"
        Image.fromarray(noise).save(path)
        if what == "cut":
            path.write_bytes(path.read_bytes()[:1000])
        if what == "missing":
            path.unlink()
    (tmp_path / "annotations" / "instances_few.json").write_text(json.dumps(
        {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "patch"}]}))
    done = run("stats", "--data", tmp_path, "--split", "few", "--check", "--size", 64, "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    reasons = json.loads((tmp_path / "s.json").read_text())["reasons"]
    assert {r: n for r, n in reasons.items() if n} == {"ok": 1, "empty_mask": 1, "damaged": 3}
    for name, why in [("1.png", "cut off"), ("2.png", "No such file"), ("3.png", "is 400 x 319 pixels, expected 400 x 320")]:
        assert any(name in line and why in line for line in done.stderr.splitlines())
    assert json.loads((tmp_path / "s.json").read_text())["left_out"] == {"pictures that cannot be read": ["1", "2", "3"]}
    done = run("preview", "--data", tmp_path, "--split", "few", "--out", tmp_path / "sheet.png")
    assert done.returncode == 0 and "3 pictures that cannot be read (1, 2, 3)" in done.stderr
    assert (tmp_path / "sheet.png").exists()
