"""docs/DATA.md: its lines that turn masks in PNGs into a data set."""
import json

import h5py
import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from evaluation import model, run_page  # noqa: F401

SIDE, SCALE = 64, 5  # of the mini model's pictures; each of their pixels is a square of the files'


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(pixels, np.ones((SCALE, SCALE), np.uint8)).astype(np.uint8) * 255).save(path)


def test_the_page(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    rng = np.random.default_rng(3)
    masks = {}
    for name in "a", "b", "c":
        write_png(tmp_path / "own" / "train" / f"{name}.png", rng.integers(0, 2, (SIDE, SIDE)))
    for name, label in ("a", "cat"), ("b", "cat"), ("b", "tea pot"), ("c", "nothing"):
        masks[name, label] = rng.integers(0, 2, (SIDE, SIDE)) * (label != "nothing")
        write_png(tmp_path / "own" / "masks" / label / f"{name}.png", masks[name, label])
    run_page("DATA.md", tmp_path, 3)
    truth = COCO("own/annotations/instances_train.json")
    found = {}
    for annotation in truth.anns.values():
        picture = truth.imgs[annotation["image_id"]]["file_name"][0]
        found[picture, truth.cats[annotation["category_id"]]["name"]] = truth.annToMask(annotation)
    assert set(found) == set(masks)
    for key, mask in found.items():
        assert (mask == np.kron(masks[key], np.ones((SCALE, SCALE)))).all()
    with h5py.File("latents/train-00000.h5") as shard:
        names = [name.decode() for name in shard.attrs["classes"]]
        assert sorted(names) == ["cat", "nothing", "tea pot"] and shard.attrs["resolution"] == SIDE
        drawn = np.unpackbits(shard["mask"][:], axis=2)[:, :, :SIDE]
        pictures = ["abc"[n - 1] for n in shard["image_id"][:]]
        assert pictures == ["a", "b"]  # c has an empty mask
        for picture, label, mask in zip(pictures, shard["class"][:], drawn):
            assert (mask == masks[picture, names[label]]).all()
    assert "annotations" in str(json.load(open("latents/train.json"))["left_out"])
