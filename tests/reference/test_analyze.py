"""`cocogold analyze latents` against scipy, and its latents against diffusers' VAE."""

import csv
import json
import shutil
import subprocess
from collections import defaultdict

import numpy as np
import pytest
import torch
from conftest import run_cocogold
from diffusers import AutoencoderKL
from PIL import Image
from scipy.stats import spearmanr

from test_report import browse, needs_browser

SAMPLES = 10


@pytest.fixture(scope="module")
def analysis(mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analyze")
    run_cocogold("synth", folder / "data", "--train", 1, "--val", 16, "--seed", 3)
    arguments = ("--model", mini, "--data", folder / "data", "--min-side", 0, "--samples", SAMPLES)
    run_cocogold("analyze", "latents", *arguments, "--out", folder / "out", "--bootstrap", 200)
    with open(folder / "out/pairs.csv") as file:
        pairs = defaultdict(list)
        for row in csv.DictReader(file):
            pairs[row["image_id"], row["class"]].append(row)
    return folder, pairs, json.loads((folder / "out/latents.json").read_text())


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


def test_orders(analysis):
    _, pairs, found = analysis
    assert len(pairs) == SAMPLES
    for name in "overlay", "mask":
        within = [spearmanr(column(rows, "iou"), -column(rows, f"mse_{name}"))[0] for rows in pairs.values()]
        everything = [row for rows in pairs.values() for row in rows]
        pooled = spearmanr(column(everything, "iou"), -column(everything, f"mse_{name}"))[0]
        summary = found[name]["all"]
        print(f"{name}: {summary['order']['value']:.6f} scipy {np.mean(within):.6f}; pooled {pooled:.6f}")
        assert abs(summary["order"]["value"] - np.mean(within)) < 1e-4  # the table has six digits: ties may differ
        assert abs(summary["pooled_order"] - pooled) < 1e-4
        assert summary["order"]["low"] <= summary["order"]["value"] <= summary["order"]["high"]
        one = [column([r for r in rows if r["pixels"] == "1"], f"mse_{name}").mean() for rows in pairs.values()]
        empty = [column([r for r in rows if r["variant"] == "empty"], f"mse_{name}")[0] for rows in pairs.values()]
        assert summary["loss_one_pixel"]["value"] == pytest.approx(np.mean(one), rel=1e-5)
        assert summary["loss_empty"]["value"] == pytest.approx(np.mean(empty), rel=1e-5)


def test_latents(analysis, mini):
    """Full against the true mask: both drawn here from the annotations, encoded by diffusers."""
    folder, pairs, found = analysis
    vae = AutoencoderKL.from_pretrained(mini, subfolder="vae").eval()
    annotations = json.loads((folder / "data/annotations/panoptic_val.json").read_text())
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    images = {image["id"]: image["file_name"] for image in annotations["images"]}

    def latent(picture):
        x = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            return vae.encode(x).latent_dist.mean * vae.config.scaling_factor

    targets = {"overlay": [], "mask": []}
    for (image_id, class_name), rows in pairs.items():
        annotation = next(a for a in annotations["annotations"] if a["image_id"] == int(image_id))
        ids = np.array(Image.open(folder / "data/annotations/panoptic_val" / annotation["file_name"])).astype(int)
        ids = ids[..., 0] + 256 * ids[..., 1] + 65536 * ids[..., 2]
        wanted = [s["id"] for s in annotation["segments_info"] if names[s["category_id"]] == class_name]
        mask = np.isin(ids, wanted)
        rgb = np.array(Image.open(folder / "data/val" / images[int(image_id)]).convert("RGB"))
        full = next(row for row in rows if row["variant"] == "full")
        assert float(full["iou"]) == pytest.approx(mask.mean(), rel=1e-5)
        for name, background in ("overlay", rgb), ("mask", np.zeros_like(rgb)):
            true = latent(np.where(mask[..., None], 255, background))
            everything = latent(np.full_like(rgb, 255))
            mse = float(((true - everything) ** 2).mean())
            assert float(full[f"mse_{name}"]) == pytest.approx(mse, rel=1e-4)
            targets[name].append(true.numpy())
    for name, latents in targets.items():
        sums = np.sum(latents, axis=0)
        constant = np.mean([((x - (sums - x) / (SAMPLES - 1)) ** 2).mean() for x in latents])
        print(f"{name}: constant answer {found[name]['all']['loss_constant']['value']:.6f}, numpy {constant:.6f}")
        assert found[name]["all"]["loss_constant"]["value"] == pytest.approx(constant, rel=1e-4)


def test_order_by_sample(analysis, mini, tmp_path):
    """Which representation is ordered better follows from the difference by sample; without a bootstrap, nothing does."""
    folder, pairs, found = analysis
    order = {name: [spearmanr(column(rows, "iou"), -column(rows, f"mse_{name}"))[0] for rows in pairs.values()]
             for name in ("overlay", "mask")}
    difference = np.subtract(order["overlay"], order["mask"])
    d = found["order_difference"]
    print(f"{d}, scipy {difference.mean():.6f}")
    assert abs(d["value"] - difference.mean()) < 2e-4 and d["low"] <= d["value"] <= d["high"]
    page = (folder / "out/latents.html").read_text()
    wanted = "it is ordered better" if d["low"] > 0 else "bare mask is ordered" if d["high"] < 0 else "neither is shown"
    assert wanted in page
    run_cocogold("analyze", "latents", "--model", mini, "--data", folder / "data", "--min-side", 0, "--samples", 3, "--out",
                 tmp_path, "--bootstrap", 0)
    page = (tmp_path / "latents.html").read_text()
    assert "There is no interval" in page and "ordered better" not in page


@needs_browser
def test_page(analysis, tmp_path):
    folder, _, _ = analysis
    report = browse(folder / "out/latents.html", tmp_path)
    assert set(report["figures"]) == {"scatter-overlay", "scatter-mask"}
    if shutil.which("xmllint"):
        subprocess.run(["xmllint", "--noout", folder / "out/latents-mask.svg"], check=True)


def test_mistakes(analysis, mini):
    folder, _, _ = analysis
    base = ("--model", mini, "--data", folder / "data", "--out", folder / "no")
    assert "expected latents, leak, starts or arms" in run_cocogold("analyze", "weights", fails=True)
    assert "at least 2" in run_cocogold("analyze", "latents", *base, "--min-side", 10000, fails=True)
    assert "multiple of 4" in run_cocogold("analyze", "latents", *base, "--resolution", 66, fails=True)
    assert "unicorn" in run_cocogold("analyze", "latents", *base, "--classes", "unicorn", fails=True)
