"""`segment` with several pictures and texts: the files of one at a time, pycocotools' masks, the label map."""
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from evaluation import COCOGOLD, cocogold, data, model  # noqa: F401

TEXTS = "red circle", "person", "a wug"
COMMON = "--method", "luminance", "--no-opening", "--steps", 1, "--resolution", 64
WHAT = "mask", "prediction", "overlay"


def texts(names=TEXTS):
    return [part for name in names for part in ("--text", name)]


def read(path):
    return np.array(Image.open(path))


@pytest.fixture(scope="module")
def pictures(data, tmp_path_factory):
    """Three pictures and a file that is none, in a folder."""
    folder = tmp_path_factory.mktemp("segment") / "pictures"
    folder.mkdir()
    for path in sorted((data / "val").iterdir())[:3]:
        Image.open(path).save(folder / path.name)
    first = Image.open(sorted(folder.iterdir())[0])
    first.resize((40, 90)).save(folder / "tall.jpg")
    return folder


@pytest.fixture(scope="module")
def many(pictures, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("segment")
    cocogold("segment", "--model", model, "--image", pictures, *texts(), *COMMON, "--fit", "aspect", "--out", f"{out}/",
             "--json", out / "results.json", "--batch", 5)
    return out


def test_the_same_as_one_at_a_time(pictures, model, many, tmp_path):
    compared = 0
    for path in sorted(pictures.iterdir()):
        for text in TEXTS[:2]:
            cocogold("segment", "--model", model, "--image", path, "--text", text, *COMMON, "--fit", "aspect", "--out",
                     tmp_path / "one")
            for what in WHAT:
                one, of_many = tmp_path / f"one-{what}.png", many / f"{path.stem}-{text.replace(' ', '_')}-{what}.png"
                assert one.read_bytes() == of_many.read_bytes(), of_many
                compared += 1
    print(f"{compared} files are equal")
    assert compared == 24


def test_results_in_pycocotools(data, pictures, many):
    from pycocotools import mask as masks
    from pycocotools.coco import COCO
    entries = json.loads((many / "results.json").read_text())
    assert {e["file_name"] for e in entries} == {p.name for p in pictures.iterdir()} and len(entries) == 12
    for e in entries:
        stem = e["file_name"].rsplit(".", 1)[0]
        assert e["image_id"] == (int(stem) if stem.isdigit() else e["file_name"])
        assert TEXTS[e["category_id"] - 1] == e["text"]
        mask = read(many / f"{stem}-{e['text'].replace(' ', '_')}-mask.png") > 0
        assert np.array_equal(masks.decode(e["segmentation"]) > 0, mask)
        assert e["segmentation"]["counts"] == masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert e["area"] == mask.sum() and e["bbox"] == masks.toBbox(e["segmentation"]).tolist()
        drawn = read(many / f"{stem}-{e['text'].replace(' ', '_')}-prediction.png")
        assert e["score"] == pytest.approx(drawn[mask].mean() / 255, abs=0.02)
    known = [e for e in entries if isinstance(e["image_id"], int)]
    truth = COCO(str(data / "annotations" / "instances_val.json"))
    found = truth.loadRes(known)
    assert len(found.anns) == len(known) == 9
    print(f"{len(entries)} masks are equal, scores {[round(e['score'], 3) for e in entries[:3]]}")


def test_label_map(pictures, many):
    """Labels are of a text whose mask covers the pixel, of the brightest one; other pixels are 0 and black."""
    legend = Image.open(many / "legend.png")
    for path in pictures.iterdir():
        image = Image.open(many / f"{path.stem}-labels.png")
        assert image.mode == "P" and image.size == Image.open(path).size
        label, palette = np.array(image), np.array(image.getpalette()).reshape(-1, 3)
        covered = np.stack([read(many / f"{path.stem}-{t.replace(' ', '_')}-mask.png") > 0 for t in TEXTS])
        drawn = np.stack([read(many / f"{path.stem}-{t.replace(' ', '_')}-prediction.png").mean(2) for t in TEXTS])
        assert np.array_equal(label > 0, covered.any(0)) and label.max() == 3
        chosen = np.maximum(label, 1)[None].astype(int) - 1
        assert np.take_along_axis(covered, chosen, 0)[0][label > 0].all()
        best = np.where(covered, drawn, 0).max(0)
        lost = (best - np.take_along_axis(drawn, chosen, 0)[0])[label > 0].max()
        print(f"{path.name}: labels {np.bincount(label.ravel())}, at most {lost:.2f}/255 below the brightest")
        assert lost <= 3 and not palette[0].any() and len({tuple(c) for c in palette[:4]}) == 4
        colors = set(map(tuple, np.array(legend).reshape(-1, 3)))
        assert all(tuple(c) in colors for c in palette[1:4])
