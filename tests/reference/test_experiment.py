"""`cocogold analyze arms` on made-up arms: means against numpy, intervals against a slow bootstrap, the page in a browser."""

import html
import json
import shutil

import numpy as np
import pytest
from conftest import run_cocogold
from PIL import Image

from test_report import browse, needs_browser

ARMS = {"overlay": 0.65, "mask": 0.6, "overlay+leak": 0.6, "mask+leak": 0.05, "overlay+leak=0.1": 0.62, "mask+leak=0.1": 0.5}
SIGNALS = {"overlay": 0, "mask": 0, "overlay+leak": 0.2, "mask+leak": 0.2, "overlay+leak=0.1": 0.1, "mask+leak=0.1": 0.1}
STARTS = "noise", "truth", "mean", "image"
STEPS, SEEDS, PAIRS = (0, 50, 100), (1, 2, 3), 60
rng = np.random.default_rng(5)
CLASSES = ["cat", "dog", "kite", "person"]  # kite is held out, person frequent
FIELDS = "image_id,class,seen,intersection,union,predicted,truth,valid"


BOXES = [f"box_{percent}_iou" for percent in range(20, 101, 10)]
box_ious = np.round(0.2 * np.random.default_rng(6).random((PAIRS, len(BOXES))), 6)  # the same for every model


def rows(iou):
    for i in range(PAIRS):
        class_name = CLASSES[i % 4]
        hits = round(200 * min(1, max(0, iou[i])))
        yield f'{i // 2},"{class_name}",{int(class_name in ("cat", "dog"))},{hits},200,{hits},200,4096'


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    final = {}
    for arm, end in ARMS.items():
        for seed in SEEDS:
            run = folder / "arms" / arm / f"seed-{seed}"
            (run / "validation").mkdir(parents=True)
            target = arm.split("+")[0]
            (run / "arm.json").write_text(
                json.dumps({"arm": arm, "target": target, "classes": "without", "frequent": "person", "seed": seed})
            )
            log = [{"kind": "run", "target": target, "command": f"cocogold train --seed {seed} --out {arm}"}]
            log += [{"kind": "step", "step": s, "loss": 1 / (1 + s), "grad_norm": 1} for s in range(1, 101)]
            for step in STEPS:
                level = end if step == STEPS[-1] else 0.5 * step / 50
                scores = level + 0.1 * rng.standard_normal(PAIRS)
                lines = [f"{row},{1 + level},{2 - level}" for row in rows(scores)]
                name = run / "validation" / f"step-{step:06d}"
                name.with_suffix(".csv").write_text("\n".join([FIELDS + ",to_black,to_white", *lines]) + "\n")
                losses = [f"{i},{rng.integers(1000)},{1 - level:.3f}" for i in range(4 * PAIRS)]
                (run / "validation" / f"step-{step:06d}-losses.csv").write_text(
                    "\n".join(["sample,timestep,loss", *losses]) + "\n"
                )
                Image.fromarray(rng.integers(0, 255, (16, 96, 3), np.uint8)).save(name.with_suffix(".png"))
                log.append({"kind": "validation", "step": step, "loss": 1 - level, "giou_seen": level})
            for name in "input", "truth":
                Image.fromarray(rng.integers(0, 255, (16, 96, 3), np.uint8)).save(run / "validation" / f"{name}.png")
            (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
            iou = np.clip(end + 0.02 * seed + 0.1 * rng.standard_normal(PAIRS), 0, 1)
            final[arm, seed] = np.round(200 * iou) / 200
            floors = {"floors": {key: {"giou": 0.12} for key in ("all_foreground", "centre_box", "white_filter")}}
            metrics = {"seen": floors, "all": floors, "config": {"terminal_signal": SIGNALS[arm]}}
            for start in STARTS:
                (run / start).mkdir()
                from_start = iou if start == "noise" else np.full(PAIRS, 0.85)
                lines = [",".join([row, "0.9", *map(str, boxes)]) for row, boxes in zip(rows(from_start), box_ious)]
                (run / start / "pairs.csv").write_text("\n".join([",".join([FIELDS, "ceiling_iou", *BOXES]), *lines]) + "\n")
                (run / start / "metrics.json").write_text(json.dumps(metrics))
            (run / "absent").mkdir()
            marked = rng.integers(0, 400, PAIRS)
            lines = [f'{i // 2},"{CLASSES[i % 4]}",0,0,{k},{k},0,4096' for i, k in enumerate(marked)]
            (run / "absent/pairs.csv").write_text("\n".join([FIELDS, *lines]) + "\n")
            final[arm, seed, "marked"] = marked / 4096
    leak = {"per_signal": [{"signal": 0.068, "overlay_recipe": 2.1, "mask_recipe": 1.9}], "matched_signal": 0.21}
    leak["matched"] = {"overlay": 0.2, "mask": 0.22}
    leak["reference"] = {"cells": 64, "contrast": 5, "signal": 0.068, "nats": 20}
    (folder / "leak.json").write_text(json.dumps(leak, indent=2))
    inputs = "--arms", folder / "arms", "--words", folder / "arms", "--leak", folder / "leak.json"
    run_cocogold("analyze", "arms", *inputs, "--out", folder, "--bootstrap", 2000)
    return folder, final, json.loads((folder / "experiment.json").read_text())


def listed():
    return np.array([CLASSES[i % 4] in ("cat", "dog") for i in range(PAIRS)])


def slow_interval(final, weights, draws=2000):
    """Pictures are drawn for all arms together, runs for each arm."""
    values = []
    keep, image = listed(), np.arange(PAIRS) // 2
    for _ in range(draws):
        times = np.bincount(rng.integers(0, PAIRS // 2, PAIRS // 2), minlength=PAIRS // 2)[image] * keep
        value = 0
        for arm, weight in weights.items():
            runs = [final[arm, seed] for seed in rng.choice(SEEDS, len(SEEDS))]
            value += weight * np.mean([(times * iou).sum() / times.sum() for iou in runs])
        values.append(value)
    return np.percentile(values, [2.5, 97.5])


def test_means(experiment):
    _, final, found = experiment
    for arm in found["arms"]:
        expected = np.mean([final[arm["name"], seed][listed()].mean() for seed in SEEDS])
        low, high = slow_interval(final, {arm["name"]: 1})
        giou = arm["giou"]["listed"]
        print(f"{arm['name']}: {giou} numpy {expected:.4f} ({low:.4f}-{high:.4f})")
        assert giou["value"] == pytest.approx(expected, abs=1e-9)
        assert abs(giou["low"] - low) < 0.2 * (high - low) and abs(giou["high"] - high) < 0.2 * (high - low)
    names = [arm["name"] for arm in found["arms"]]
    assert sorted(names) == sorted(ARMS) and names[:2] == ["overlay", "mask"]


def test_absent_classes(experiment):
    folder, final, found = experiment
    mean = {arm: np.mean([final[arm, seed, "marked"].mean() for seed in SEEDS]) for arm in ARMS}
    for arm in found["arms"]:
        area = arm["false_area"]
        print(f"{arm['name']}: {area} numpy {mean[arm['name']]:.5f}")
        assert area["value"] == pytest.approx(mean[arm["name"]], abs=1e-9) and area["low"] < area["value"] < area["high"]
    difference = next(d for d in found["differences"] if d["name"] == "mask+leak - mask")["false_area"]
    assert difference["value"] == pytest.approx(mean["mask+leak"] - mean["mask"], abs=1e-9)
    assert any("not in the picture" in s and f"overlay {100 * mean['overlay']:.1f}%" in s for s in found["sentences"])
    page = (folder / "report.html").read_text()
    assert page.count('<div class="asked"><span>cat</span><span>dog</span><span>kite</span>') == len(ARMS) + 1


def test_differences(experiment):
    _, final, found = experiment
    weights = {"overlay": -1, "mask": 1, "overlay+leak": 1, "mask+leak": -1}
    target = next(d for d in found["differences"] if d["name"].startswith("what painting gains"))["giou"]["listed"]
    expected = sum(w * np.mean([final[arm, s][listed()].mean() for s in SEEDS]) for arm, w in weights.items())
    low, high = slow_interval(final, weights)
    print(f"{target} numpy {expected:.4f} ({low:.4f}-{high:.4f})")
    assert target["value"] == pytest.approx(expected, abs=1e-9)
    assert abs(target["low"] - low) < 0.2 * (high - low) and abs(target["high"] - high) < 0.2 * (high - low)
    assert "overlay+leak - mask+leak" in [d["name"] for d in found["differences"]]


def best_box(keep):
    return box_ious[keep].mean(0).max()


def test_boxes(experiment):
    """The page's floors: the best box of each group of classes."""
    folder, _, _ = experiment
    page = (folder / "report.html").read_text()
    row = page.split("floor: best centre box</td>")[1].split("</tr>")[0]
    held_out, frequent = (np.array([CLASSES[i % 4] == name for i in range(PAIRS)]) for name in ("kite", "person"))
    for keep in listed(), held_out, frequent, np.full(PAIRS, True):
        assert f"<td>{best_box(keep):.3f}</td>" in row


def test_failures_and_starts(experiment):
    _, _, found = experiment
    for arm in found["arms"]:
        expected = len(SEEDS) if arm["name"] == "mask+leak" else 0
        print(arm["name"], arm["failed"], arm["signal"], [run["listed"] for run in arm["runs"]])
        assert arm["failed"] == expected and arm["signal"] == SIGNALS[arm["name"]]
        assert arm["starts"]["truth"]["value"] == pytest.approx(0.85) and arm["training_loss"] < 0.02
        for run in arm["runs"]:
            assert run["above_box"]["value"] == pytest.approx(run["listed"]["value"] - best_box(listed()), abs=1e-6)
            assert run["at_floor"] == (run["above_box"]["low"] <= 0)
    assert any("failure reproduces" in s for s in found["sentences"])
    assert any("mask+leak reaches 0.850" in s for s in found["sentences"])


@needs_browser
def test_page(experiment, tmp_path):
    folder, _, found = experiment
    report = browse(folder / "report.html", tmp_path)
    wanted = {"strip", "fig-dose", "fig-words-listed", "fig-words-held-out", "fig-words-frequent", "fig-listed", "fig-held-out", "fig-frequent", "fig-constant", "fig-loss", "fig-validation-loss"}
    wanted |= {"fig-timesteps", "fig-black", "fig-white"} | {f"film-{arm}" for arm in ARMS}
    assert wanted == set(report["figures"])
    assert report["images"] == len(ARMS) * (len(STEPS) + 2) + 2 + 4
    page = html.unescape((folder / "report.html").read_text())
    assert "not recorded" not in page
    for sentence in found["sentences"]:
        assert sentence in page


def test_runs_validated_at_different_steps(experiment, tmp_path):
    """There is no average over them: a note instead of their curves."""
    folder, _, _ = experiment
    shutil.copytree(folder / "arms", tmp_path / "arms")
    for path in (tmp_path / "arms/mask/seed-2/validation").glob("step-000050*"):
        path.rename(path.with_name(path.name.replace("50", "60", 1)))
    run_cocogold("analyze", "arms", "--arms", tmp_path / "arms", "--out", tmp_path, "--bootstrap", 10)
    note = "The runs of mask were validated at different steps"
    assert note in (tmp_path / "report.html").read_text() and note not in (folder / "report.html").read_text()


def test_mistakes(experiment, tmp_path):
    folder, _, _ = experiment
    assert "is not a folder" in run_cocogold("analyze", "arms", "--arms", tmp_path / "nowhere", fails=True)
    damaged = folder / "arms/mask/seed-2/truth/pairs.csv"
    text = damaged.read_text()
    try:
        damaged.write_text(text.replace('"kite"', '"cat"', 1))
        assert "its pairs differ" in run_cocogold("analyze", "arms", "--arms", folder / "arms", fails=True)
        damaged.write_text(text.replace("200", "many", 1))
        assert "is not a number" in run_cocogold("analyze", "arms", "--arms", folder / "arms", fails=True)
        damaged.write_text(text[: len(text) // 2])
        assert "expected 18 columns" in run_cocogold("analyze", "arms", "--arms", folder / "arms", fails=True)
    finally:
        damaged.write_text(text)
