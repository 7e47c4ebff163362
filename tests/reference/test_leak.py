"""`cocogold analyze leak` against numpy: latents by diffusers' VAE, the noise's covariance explicitly from
torch's bilinear filter on basis vectors, numpy.linalg.solve."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from conftest import run_cocogold
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image

from test_report import browse, needs_browser
from test_train import MULTIRES, philox, uniform

SAMPLES, SEED, DRAWS, STRENGTH, MATCH = 8, 11, 256, 0.9, {"cells": 20, "contrast": 5.0, "signal": 0.068}
NAMES = "overlay", "mask"


@pytest.fixture(scope="module")
def analysis(mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("leak")
    run_cocogold("synth", folder / "data", "--train", 1, "--val", 12, "--seed", 3)
    text = run_cocogold("analyze", "leak", "--model", mini, "--data", folder / "data", "--min-side", 0, "--samples",
                        SAMPLES, "--out", folder / "out", "--seed", SEED, "--match-cells", MATCH["cells"])  # fmt: skip
    with open(folder / "out/objects.csv") as file:
        rows = list(csv.DictReader(file))
    return folder, rows, json.loads((folder / "out/leak.json").read_text()), text


def covariance(side):
    """Of the noise at the last of 1000 timesteps, annealed: the level sizes of DRAWS draws, explicit matrices."""
    n, total = side * side, np.zeros((side * side, side * side))
    enlarged = {}
    for draw in range(DRAWS):
        size = side
        for i in range(1, 10):
            r = 2 + 2 * uniform(philox(SEED, MULTIRES, 0, draw, [i]))[0, 0]
            size = max(1, int(size / r**i))
            if size not in enlarged:
                basis = torch.eye(size * size, dtype=torch.float64).reshape(size * size, 1, size, size)
                up = torch.nn.functional.interpolate(basis, (side, side), mode="bilinear", align_corners=False)
                u = up.reshape(size * size, n).numpy()
                enlarged[size] = u.T @ u
            total += (STRENGTH * 999 / 1000) ** (2 * i) * enlarged[size]
            if size == 1:
                break
    total = total / DRAWS + 2 * np.eye(n)
    return total * n / np.trace(total)


def form(d, S=None):
    """The sum over channels of d' S^-1 d; d (L, h, w)."""
    flat = d.reshape(len(d), -1).T.astype(np.float64)
    return float((flat * (flat if S is None else np.linalg.solve(S, flat))).sum())


def places(b, o, cells):
    """Sums over cells of -b (o - b) and (o - b)^2."""
    step = o - b
    return np.array([(-b * step).sum(0)[cells].sum(), (step**2).sum(0)[cells].sum()])


@pytest.fixture(scope="module")
def expected(analysis, mini):
    """Per object and target: contrast, places of 0, the three forms."""
    folder, rows, _, _ = analysis
    vae = AutoencoderKL.from_pretrained(mini, subfolder="vae").eval()
    annotations = json.loads((folder / "data/annotations/panoptic_val.json").read_text())
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    images = {image["id"]: image["file_name"] for image in annotations["images"]}

    def latent(picture):
        x = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            return (vae.encode(x).latent_dist.mean * vae.config.scaling_factor)[0].double().numpy()

    found, own, large = {name: [] for name in NAMES}, None, covariance(MATCH["cells"])
    for row in rows:
        annotation = next(a for a in annotations["annotations"] if a["image_id"] == int(row["image_id"]))
        ids = np.array(Image.open(folder / "data/annotations/panoptic_val" / annotation["file_name"])).astype(int)
        ids = ids[..., 0] + 256 * ids[..., 1] + 65536 * ids[..., 2]
        wanted = [s["id"] for s in annotation["segments_info"] if names[s["category_id"]] == row["class"]]
        mask = np.isin(ids, wanted)
        assert float(row["object_share"]) == pytest.approx(mask.mean(), rel=1e-6)
        rgb = np.array(Image.open(folder / "data/val" / images[int(row["image_id"])]).convert("RGB"))
        for name, background in ("overlay", rgb), ("mask", np.zeros_like(rgb)):
            b, o = latent(background), latent(np.full_like(rgb, 255))
            d = latent(np.where(mask[..., None], 255, background)) - b
            h = d.shape[1]
            own = covariance(h) if own is None else own
            square = (len(mask) // h) ** 2
            pixels = mask.reshape(h, len(mask) // h, h, -1).sum((1, 3))
            inside = pixels == square if (pixels == square).any() else pixels > 0
            index = np.arange(MATCH["cells"]) * h // MATCH["cells"]
            up = d[:, index][:, :, index]
            up = up * MATCH["contrast"] / np.sqrt((up**2).sum() / (mask.mean() * MATCH["cells"] ** 2))
            found[name].append(dict(
                contrast=np.sqrt((d**2).sum() / (mask.mean() * h * h)), background=places(b, o, pixels == 0),
                object=places(b, o, inside), white=form(d), recipe=form(d, own), reference=form(up, large)))  # fmt: skip
    return found


def column(found, name, key):
    return np.array([o[key] for o in found[name]])


def test_objects(analysis, expected):
    _, rows, _, _ = analysis
    assert len(rows) == SAMPLES
    for name in NAMES:
        for key in "contrast", "white", "recipe", "reference":
            here, there = np.array([float(r[f"{key}_{name}"]) for r in rows]), column(expected, name, key)
            print(f"{name} {key}: {here[0]:.6g}, numpy {there[0]:.6g}; largest error {abs(here / there - 1).max():.1e}")
            assert here == pytest.approx(there, rel=1e-3)
        for key in "background", "object":
            here = np.array([float(r[f"zero_{key}_{name}"]) for r in rows])
            there = column(expected, name, key)
            assert here == pytest.approx(there[:, 0] / there[:, 1], abs=1e-3)


def test_summary(analysis, expected, mini):
    _, _, found, text = analysis
    scheduler = DDIMScheduler.from_pretrained(mini, subfolder="scheduler", rescale_betas_zero_snr=False)
    a = float(scheduler.alphas_cumprod[-1].sqrt())
    assert found["config"]["terminal_signal"] == pytest.approx(a, rel=1e-5)
    matched = []
    for name in NAMES:
        summary = found[name]["all"]
        assert summary["objects"] == SAMPLES == sum(found[name][s]["objects"] for s in ("small", "medium", "large"))
        assert summary["contrast"]["value"] == pytest.approx(column(expected, name, "contrast").mean(), rel=1e-3)
        for key in "background", "object":
            along, square = column(expected, name, key).sum(0)
            assert summary[f"zero_{key}"] == pytest.approx(along / square, abs=1e-3)
        for noise in "white", "recipe":
            forms = column(expected, name, noise)
            nats = a**2 / (1 - a**2) / 2 * forms
            print(f"{name}, {noise}: {summary[noise]['median']:.6g} nats, numpy {np.median(nats):.6g}")
            assert summary[noise]["median"] == pytest.approx(np.median(nats), rel=1e-3)
            assert summary[noise]["mean"]["value"] == pytest.approx(nats.mean(), rel=1e-3)
            assert summary[noise]["mean"]["low"] <= nats.mean() <= summary[noise]["mean"]["high"]
            for row in found["per_signal"]:
                expectation = row["signal"] ** 2 / (1 - row["signal"] ** 2) / 2 * np.median(forms)
                assert row[f"{name}_{noise}"] == pytest.approx(expectation, rel=1e-3)
        ratio = np.log(column(expected, name, "reference") / column(expected, name, "recipe")).mean()
        odds = MATCH["signal"] ** 2 / (1 - MATCH["signal"] ** 2) * np.exp(ratio)
        matched.append(np.sqrt(odds / (1 + odds)))
        assert found["matched"][name] == pytest.approx(matched[-1], rel=1e-3)
    assert [row["signal"] for row in found["per_signal"]] == [0.068, 0.14, 0.22, 0.27]
    assert found["matched_signal"] == pytest.approx(np.mean(matched), abs=1.1e-3)
    assert f"Matched signal {found['matched_signal']:.3f}" in text
    reference = np.concatenate([column(expected, name, "reference") for name in NAMES])
    nats = MATCH["signal"] ** 2 / (1 - MATCH["signal"] ** 2) / 2 * np.median(reference)
    assert found["reference"]["nats"] == pytest.approx(nats, rel=1e-3)
    assert {key: found["reference"][key] for key in MATCH} == MATCH


def test_white(analysis, mini):
    """Without multi-resolution noise the recipe's is white; --terminal-signal is one more row of the table."""
    folder, rows, _, _ = analysis
    run_cocogold("analyze", "leak", "--model", mini, "--data", folder / "data", "--min-side", 0, "--samples", SAMPLES,
                 "--seed", SEED, "--multires-noise", 0, "--terminal-signal", 0.1, "--out", folder / "white")  # fmt: skip
    with open(folder / "white/objects.csv") as file:
        for row, other in zip(csv.DictReader(file), rows, strict=True):
            assert row["white_mask"] == row["recipe_mask"] == other["white_mask"]
            # on a latent four times as wide, scaled to contrast 5, under white noise: 25 x cells
            cells = float(row["object_share"]) * 64**2
            assert float(row["reference_mask"]) == pytest.approx(25 * cells, rel=1e-5)
    found = json.loads((folder / "white/leak.json").read_text())
    assert [row["signal"] for row in found["per_signal"]] == [0.068, 0.1, 0.14, 0.22, 0.27]
    assert found["per_signal"][1]["mask_white"] == pytest.approx(found["mask"]["all"]["recipe"]["median"])


def test_no_signal(analysis, mini, tmp_path):
    """A schedule that leaves nothing: 0 nats, the same matched signal, and pages without NaN."""
    folder, _, found, _ = analysis
    run_cocogold("analyze", "leak", "--model", mini, "--data", folder / "data", "--min-side", 0, "--samples", SAMPLES,
                 "--seed", SEED, "--match-cells", MATCH["cells"], "--terminal-signal", 0, "--out", tmp_path)  # fmt: skip
    none = json.loads((tmp_path / "leak.json").read_text())
    assert none["mask"]["all"]["recipe"]["median"] == 0 and none["matched_signal"] == found["matched_signal"]
    page = (tmp_path / "leak.html").read_text()
    assert "by-share" not in page and not re.search(r"[^a-z]-?(nan|inf)[^a-z]", page)

    def curves(page):
        return re.findall(r'<path[^>]* d="([^"]*)"', page.split('id="by-signal"')[1].split("</figure>")[0])

    assert curves(page) == curves((folder / "out/leak.html").read_text())


@needs_browser
@pytest.mark.parametrize("name", ["out", "white"])
def test_page(analysis, name, tmp_path):
    folder, _, _, _ = analysis
    report = browse(folder / name / "leak.html", tmp_path)
    assert set(report["figures"]) == {"by-share", "by-signal"}


def test_mistakes(analysis, mini):
    folder, _, _, _ = analysis
    base = ("analyze", "leak", "--model", mini, "--data", folder / "data", "--out", folder / "no")
    assert "at least 2" in run_cocogold(*base, "--min-side", 10000, fails=True)
    assert "multiple of 4" in run_cocogold(*base, "--resolution", 66, fails=True)
    assert "--terminal-signal" in run_cocogold(*base, "--terminal-signal", 1, fails=True)
    assert "--match-cells" in run_cocogold(*base, "--match-cells", 0, fails=True)
