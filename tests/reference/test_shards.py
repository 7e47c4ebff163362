"""Scenes against pycocotools; shards read with h5py, their latents against diffusers."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from pycocotools.coco import COCO

from conftest import ROOT, program, run_cocogold

SAMPLE = Path(os.environ.get("COCO_SAMPLE", ROOT.parent / "shared" / "coco_sample"))
SCALE = 0.5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 16, 16], layers_per_block=1, norm_num_groups=4, sample_size=64, scaling_factor=SCALE)
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "scenes"
    run_cocogold("synth", folder, "--train", 24, "--val", 10, "--seed", 5)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory, model, scenes):
    folder = tmp_path_factory.mktemp("shards")
    run_cocogold("encode", "--model", model, "--data", scenes, "--out", folder, "--targets", "overlay,mask", "--min-side", 1,
             "--shard-size", 16, "--passes", 2, "--color", "255,250,0", "--alpha", 0.75, "--seed", 11)
    return folder


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def mask_of(coco, image_id, name):
    """The union of a class's instances."""
    (category,) = coco.getCatIds(catNms=[name])
    ids = coco.getAnnIds(imgIds=[image_id], catIds=[category])
    return np.any([coco.annToMask(a) for a in coco.loadAnns(ids)], axis=0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_cocos(scenes, split):
    coco = COCO(scenes / f"annotations/instances_{split}.json")
    panoptic = json.loads((scenes / f"annotations/panoptic_{split}.json").read_text())
    assert [c["name"] for c in panoptic["categories"]] == [c["name"] for c in coco.dataset["categories"]]
    unseen = set((scenes / "classes/unseen.txt").read_text().split("\n")) - {""}
    seen = set((scenes / "classes/seen.txt").read_text().split("\n")) - {""}
    names = {c["id"]: c["name"] for c in panoptic["categories"]}
    assert len(unseen) == 6 and seen | unseen == set(names.values()) and not seen & unseen
    assert len({a["id"] for a in coco.dataset["annotations"]}) == len(coco.dataset["annotations"])
    pictures = 0
    for entry in panoptic["annotations"]:
        rgb = np.array(Image.open(scenes / f"annotations/panoptic_{split}" / entry["file_name"])).astype(np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        instances = coco.loadAnns(coco.getAnnIds(imgIds=[entry["image_id"]]))
        assert len(instances) == len(entry["segments_info"]) > 0
        assert set(np.unique(ids)) - {0} == {s["id"] for s in entry["segments_info"]}
        for instance, segment in zip(instances, entry["segments_info"]):
            mask = coco.annToMask(instance)
            assert np.array_equal(mask, ids == segment["id"])
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert instance["bbox"] == segment["bbox"] == box
            assert instance["area"] == segment["area"] == mask.sum()
            assert instance["category_id"] == segment["category_id"]
            assert split == "val" or names[instance["category_id"]] in seen
        picture = Image.open(scenes / split / coco.imgs[entry["image_id"]]["file_name"])
        assert picture.size == (64, 64) and picture.mode == "RGB"
        pictures += 1
    assert pictures == {"train": 24, "val": 10}[split]


def test_schema(shards):
    files = sorted(shards.glob("train-*.h5"))
    assert [f.name for f in files] == [f"train-{i:05d}.h5" for i in range(4)]  # 2 passes of 16 + 8 pictures
    for number, path in enumerate(files):
        with h5py.File(path) as f:
            n = len(f["class"])
            assert n == (16, 8)[number % 2]
            for name in "image_latent", "target_overlay", "target_mask":
                assert f[name].dtype == np.float16 and f[name].shape == (n, 16, 16, 4)
                assert f[name].chunks == (1, 16, 16, 4) and f[name].fletcher32
                assert np.isfinite(f[name][...]).all()
            assert f["mask"].dtype == np.uint8 and f["mask"].shape == (n, 64, 8) and f["mask"].fletcher32
            types = {"class": np.int16, "image_id": np.int64, "crop": np.int32, "area": np.float32}
            assert all(f[k].dtype == t for k, t in types.items()) and f["crop"].shape == (n, 3)
            a = f.attrs
            assert len(a["classes"]) == len(a["drawn"]) == 25
            assert text(a["classes"][0]) == "person" and text(a["classes"][1]) == "red circle"
            assert list(a["drawn"][:3]) == [1, 0, 1]
            assert len(text(a["vae_sha256"])) == 64 and text(a["precision"]) in ("fp32", "bf16")
            assert (a["resolution"], a["alpha"], a["outline"], a["seed"]) == (64, 0.75, 0, 11)
            assert list(a["color"]) == [255, 250, 0] and a["pass"] == number // 2 and text(a["targets"]) == "overlay,mask"
            assert text(a["split"]) == "train" and text(a["version"])


def test_contents_against_diffusers(shards, scenes, model):
    vae = AutoencoderKL.from_pretrained(model / "vae").eval()
    coco = COCO(scenes / "annotations/instances_train.json")
    color = np.array([255, 250, 0])
    worst = {}
    seen = set()
    for path in sorted(shards.glob("train-*.h5")):
        with h5py.File(path) as f:
            for i in range(0, len(f["class"]), 3):
                image_id, name = int(f["image_id"][i]), text(f.attrs["classes"][f["class"][i]])
                seen.add((image_id, name))
                mask = np.unpackbits(f["mask"][i], axis=1)[:, :64].astype(bool)
                assert np.array_equal(mask, mask_of(coco, image_id, name))
                assert f["area"][i] == pytest.approx(mask.mean()) and list(f["crop"][i]) == [0, 0, 64]
                rgb = np.array(Image.open(scenes / "train" / coco.imgs[image_id]["file_name"])).astype(float)
                overlay = np.where(mask[..., None], np.round(0.25 * rgb + 0.75 * color), rgb)
                pictures = {"image_latent": rgb, "target_overlay": overlay,
                            "target_mask": np.repeat(255.0 * mask[..., None], 3, axis=2)}
                for key, picture in pictures.items():
                    x = torch.tensor(picture / 127.5 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
                    with torch.no_grad():
                        want = vae.encode(x).latent_dist.mode()[0].permute(1, 2, 0).numpy() * SCALE
                    have = f[key][i].astype(np.float32)
                    error = np.linalg.norm(have - want) / np.linalg.norm(want)
                    worst[key] = max(worst.get(key, 0), error)
    print(worst, len(seen), "pairs")
    assert len(seen) > 8
    assert worst["image_latent"] < 5e-4 and worst["target_mask"] < 5e-4  # fp16 rounds to 2.4e-4 on average
    assert worst["target_overlay"] < 2e-3  # a blended pixel may round to the next byte


def test_report_and_restart(shards, scenes, model):
    summary = json.loads((shards / "train.json").read_text())
    assert summary["samples"] + sum(map(len, summary["dropped"].values())) == 48
    assert sum(summary["samples_of_class"].values()) == summary["samples"]
    before = {p.name: p.read_bytes() for p in shards.glob("*.h5")}
    (shards / "train-00001.h5").unlink()
    again = ["encode", "--model", model, "--data", scenes, "--out", shards, "--targets", "overlay,mask", "--min-side", 1,
             "--shard-size", 16, "--passes", 2, "--color", "255,250,0", "--alpha", 0.75, "--seed"]
    run_cocogold(*again, 11)
    assert {p.name: p.read_bytes() for p in shards.glob("*.h5")} == before  # the same bytes, and nothing else is left
    assert 'attribute "seed" is 11, but this command asks for 12' in run_cocogold(*again, 12, fails=True)


def test_parts_give_the_same_shards(shards, scenes, model, tmp_path):
    for part in "2/3", "1/3", "3/3":
        run_cocogold("encode", "--model", model, "--data", scenes, "--out", tmp_path, "--targets", "overlay,mask", "--min-side",
                 1, "--shard-size", 16, "--passes", 2, "--color", "255,250,0", "--alpha", 0.75, "--seed", 11, "--part", part)
    for path in shards.glob("*.h5"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    assert (tmp_path / "train.json").exists()


def test_interrupt_leaves_no_half_shard(scenes, model, tmp_path):
    command = [program(), "encode", "--model", model, "--data", scenes, "--out", tmp_path / "out", "--min-side", "1",
               "--shard-size", "8", "--batch", "1", "--passes", "300"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("out/train-00001.h5")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "complete shards are kept" in said
    files = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert files == [f"train-{i:05d}.h5" for i in range(len(files))] and len(files) >= 2
    for name in files:
        with h5py.File(tmp_path / "out" / name) as f:
            assert len(f["image_latent"]) + len(f["dropped_image"]) == 8


def test_refusals(scenes, model, tmp_path):
    base = ["encode", "--model", model, "--data", scenes, "--out", tmp_path / "x"]
    for extra, sentence in [
        (["--split", "test"], "test"),
        (["--targets", "picture"], "--targets picture: expected one of"),
        (["--resolution", 66], "--resolution 66: expected a multiple of 4"),
        (["--classes", "elephant"], "class \"elephant\""),
        (["--part", "3/2"], "--part 3/2: expected K/N"),
        (["--part", "x"], "--part x: expected K/N"),
        (["--alpha", 2], "alpha"),
    ]:
        assert sentence in run_cocogold(*base, *extra, fails=True)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of COCO is not here")
def test_real_pictures(model, tmp_path):
    run_cocogold("encode", "--model", model, "--data", SAMPLE, "--split", "val", "--source", "panoptic", "--classes", "all",
             "--out", tmp_path, "--targets", "overlay,mask", "--resolution", 64)
    summary = json.loads((tmp_path / "val.json").read_text())
    with h5py.File(tmp_path / "val-00000.h5") as f:
        masks = np.unpackbits(f["mask"][...], axis=2)[:, :, :64]
        assert np.allclose(f["area"][...], masks.mean(axis=(1, 2)))
        sizes = {p["id"]: (p["width"], p["height"]) for p in
                 json.loads((SAMPLE / "annotations/panoptic_val2017.json").read_text())["images"]}
        for image_id, (x, y, side) in zip(f["image_id"][...], f["crop"][...]):
            width, height = sizes[image_id]
            assert side == min(width, height) and 0 <= x <= width - side and 0 <= y <= height - side
        assert len(f["class"]) == summary["samples"] > 10
        assert sorted(f["dropped_image"][...]) == sorted(i for ids in summary["dropped"].values() for i in ids)
