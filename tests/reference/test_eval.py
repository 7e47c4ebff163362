"""Evaluation against others' code: IoU against torchmetrics and pycocotools, sampling against a diffusers loop."""
import csv
import json
import math
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import COCOGOLD, cocogold, data, diffusers_prediction, evaluated, model  # noqa: F401


def truths(data):
    """(image id, class name) -> true mask, by pycocotools."""
    from pycocotools.coco import COCO
    coco = COCO(str(data / "annotations" / "instances_val.json"))
    names = {c["id"]: c["name"] for c in coco.dataset["categories"]}
    masks = {}
    for a in coco.dataset["annotations"]:
        key = a["image_id"], names[a["category_id"]]
        if not a.get("iscrowd"):
            masks[key] = np.maximum(masks.get(key, 0), coco.annToMask(a))
    return masks


def test_iou_against_torchmetrics(data, evaluated):
    from torchmetrics.classification import BinaryJaccardIndex
    wanted = truths(data)
    rows = [r for r in csv.DictReader(open(evaluated / "pairs.csv")) if r["absent"] == "0"]
    assert {(int(r["image_id"]), r["class"]) for r in rows} == set(wanted)
    worst, sums = 0, {}
    for r in rows:
        key = int(r["image_id"]), r["class"]
        name = f"{key[0]}-{key[1].replace(' ', '_')}.png"
        mask = np.array(Image.open(evaluated / "masks" / name)) > 0
        truth = wanted[key] > 0
        iou = BinaryJaccardIndex()(torch.tensor(mask).int(), torch.tensor(truth).int()).item()
        worst = max(worst, abs(iou - float(r["iou"])))
        i, u = sums.get(key[1], (0, 0))
        sums[key[1]] = i + (mask & truth).sum(), u + (mask | truth).sum()
    print(f"{len(rows)} pairs, largest difference of an IoU to torchmetrics {worst:.2e}")
    assert worst < 2e-6
    metrics = json.load(open(evaluated / "metrics.json"))
    seen = set((data / "classes" / "seen.txt").read_text().split("\n"))
    for group, classes in (("seen", [c for c in sums if c in seen]), ("unseen", [c for c in sums if c not in seen])):
        miou = np.mean([sums[c][0] / sums[c][1] for c in classes])
        giou = np.mean([float(r["iou"]) for r in rows if r["class"] in classes])
        print(f"{group}: mIoU {metrics[group]['miou']:.6f} against {miou:.6f}")
        assert metrics[group]["miou"] == pytest.approx(miou, abs=1e-9)
        assert metrics[group]["giou"] == pytest.approx(giou, abs=1e-6)
        assert metrics[group]["classes"] == len(classes)
        assert metrics[group]["miou_low"] <= metrics[group]["miou"] <= metrics[group]["miou_high"]


def test_floors(data, evaluated):
    """All foreground and the best centre box of each group and measure, computed again from the true masks."""
    wanted, metrics = truths(data), json.load(open(evaluated / "metrics.json"))
    seen = set((data / "classes" / "seen.txt").read_text().split("\n"))

    def floor(mask_of, keep):
        sums, ious = {}, []
        for (_, name), truth in wanted.items():
            if not keep(name):
                continue
            mask = mask_of(truth.shape)
            both, either = (mask & (truth > 0)).sum(), (mask | (truth > 0)).sum()
            i, u = sums.get(name, (0, 0))
            sums[name] = i + both, u + either
            ious.append(both / either)
        i, u = np.sum(list(sums.values()), axis=0)
        return {"miou": np.mean([i / u for i, u in sums.values()]), "giou": np.mean(ious), "ciou": i / u}

    def box(shape, size):
        mask = np.zeros(shape, bool)
        h, w = (int(side * size + 0.5) for side in shape)
        y, x = (shape[0] - h) // 2, (shape[1] - w) // 2
        mask[y:y + h, x:x + w] = True
        return mask

    chosen = set()
    groups = {"all": lambda c: True, "seen": lambda c: c in seen, "unseen": lambda c: c not in seen}
    for group, keep in groups.items():
        floors = metrics[group]["floors"]
        whole = floor(lambda shape: np.ones(shape, bool), keep)
        boxes = {size: floor(lambda shape: box(shape, size / 10), keep) for size in range(2, 11)}
        for measure in "miou", "giou", "ciou":
            best = max(boxes, key=lambda size: boxes[size][measure])
            found = floors["centre_box"]
            assert floors["all_foreground"][measure] == pytest.approx(whole[measure], abs=1e-9)
            assert found[measure] == pytest.approx(boxes[best][measure], abs=1e-9)
            assert found["sizes"][measure] == pytest.approx(best / 10)
            chosen.add(best)
    print(f"boxes of {sorted(chosen)} tenths")
    assert len(chosen) > 1 and metrics["absent"]["pairs"] > 0
    rows = [r for r in csv.DictReader(open(evaluated / "pairs.csv")) if r["absent"] == "0"]
    for r in rows:
        truth = wanted[int(r["image_id"]), r["class"]] > 0
        mask = box(truth.shape, 0.4)
        assert float(r["box_40_iou"]) == pytest.approx((mask & truth).sum() / (mask | truth).sum(), abs=1e-6)


def test_white_floor_depends_on_no_model(data, model, evaluated, tmp_path):
    """The floor with another rule of extraction than the fixture's."""
    cocogold("eval", "--model", model, "--data", data, "--split", "val", "--out", tmp_path, "--steps", 1, "--seen",
             "@" + str(data / "classes" / "seen.txt"), "--tolerance", 0.6, "--bootstrap", 0)
    own, other = (json.load(open(f / "metrics.json"))["seen"]["floors"]["white_filter"] for f in (evaluated, tmp_path))
    print(own)
    assert own == other


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_segment_against_a_diffusers_loop(data, model, tmp_path, steps):
    path = sorted((data / "val").iterdir())[0]
    square = tmp_path / "square.png"
    Image.open(path).convert("RGB").crop((0, 0, 64, 64)).save(square)
    cocogold("segment", "--model", model, "--image", square, "--text", "red circle", "--out", tmp_path / "out", "--steps",
             steps, "--resolution", 64, "--method", "luminance", "--no-opening", "--dump-noise", tmp_path / "noise.bin")
    pixels = torch.tensor(np.array(Image.open(square)), dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
    noise = torch.tensor(np.fromfile(tmp_path / "noise.bin", np.float32))
    channels = 4
    side = int(math.sqrt(len(noise) / channels))
    expected = diffusers_prediction(model, pixels, "red circle", noise.reshape(1, channels, side, side), steps)
    expected = expected[0].permute(1, 2, 0).numpy()
    prediction = np.array(Image.open(tmp_path / "out-prediction.png")) / 255
    mask = np.array(Image.open(tmp_path / "out-mask.png")) > 0
    wanted = expected.mean(2) >= 0.5
    iou = (mask & wanted).sum() / max(1, (mask | wanted).sum())
    print(f"{steps} steps: prediction differs by at most {np.abs(prediction - expected).max() * 255:.2f}/255, "
          f"masks {mask.mean():.1%} and {wanted.mean():.1%}, IoU {iou:.4f}")
    assert np.abs(prediction - expected).max() * 255 < 0.6
    assert 0.02 < wanted.mean() < 0.98 and iou > 0.995


def test_any_size_and_aspect(data, model, tmp_path):
    source = Image.open(sorted((data / "val").iterdir())[1]).convert("RGB")
    for fit in ("pad", "aspect"):
        for size in ((131, 37), (20, 90), (1, 1)):
            source.resize(size).save(tmp_path / "in.png")
            cocogold("segment", "--model", model, "--image", tmp_path / "in.png", "--text", "a wug", "--out",
                     tmp_path / "out", "--fit", fit, "--resolution", 64, "--ensemble", 2, "--steps", 1)
            for what in ("mask", "prediction", "overlay"):
                assert Image.open(tmp_path / f"out-{what}.png").size == size


def test_thresholds_are_chosen_on_training_pictures_and_kept(data, model, tmp_path):
    import shutil
    own = tmp_path / "model"
    shutil.copytree(model, own)
    common = ["--model", own, "--data", data, "--seen", "@" + str(data / "classes" / "seen.txt"), "--limit", 6, "--steps",
              1, "--out", tmp_path / "out"]
    cocogold("eval", *common, "--tune-on", "train", "--tune-pairs", 10, "--method", "luminance")
    kept = json.load(open(own / "segmentation.json"))
    metrics = json.load(open(tmp_path / "out" / "metrics.json"))
    assert kept["method"] == "luminance" and "split train" in kept["tuned_on"]
    assert metrics["config"]["extraction"]["tolerance"] == pytest.approx(kept["tolerance"])
    cocogold("eval", *common)
    again = json.load(open(tmp_path / "out" / "metrics.json"))
    assert again["config"]["extraction"] == metrics["config"]["extraction"]
    assert again["seen"]["miou"] == metrics["seen"]["miou"]
    done = subprocess.run([COCOGOLD, "eval", *map(str, common), "--tune-on", "val"], capture_output=True, text=True)
    assert done.returncode == 1 and "must not be chosen" in done.stderr
    assert kept["compared_with"] == "picture"
    (own / "segmentation.json").write_text(json.dumps(kept | {"method": "compare"}))
    assert "chose these thresholds" not in cocogold("eval", *common).stderr
    # Those that are chosen on shards, which hold no pictures, are used with a warning, but not where shards are evaluated.
    for split in "train", "val":
        cocogold("encode", "--model", own, "--data", data, "--split", split, "--out", tmp_path / "shards", "--min-side", 0)
    crops = ["--model", own, "--protocol", "crops", "--shards", tmp_path / "shards", "--limit", 6, "--steps", 1, "--out",
             tmp_path / "crops"]
    cocogold("eval", *crops, "--tune-on", "train", "--tune-pairs", 10)
    assert json.load(open(own / "segmentation.json"))["compared_with"] == "decoded latent"
    assert "chose these thresholds" not in cocogold("eval", *crops).stderr
    assert "eval --protocol crops chose these thresholds" in cocogold("eval", *common).stderr


def test_thresholds_need_true_pixels(data, model, tmp_path):
    """Samples that all ask for absent classes choose nothing."""
    import shutil
    own = tmp_path / "model"
    shutil.copytree(model, own)
    for split in "train", "val":
        cocogold("encode", "--model", own, "--data", data, "--split", split, "--out", tmp_path / "shards", "--min-side", 0,
                 "--absent", 1)
    done = subprocess.run([COCOGOLD, "eval", "--model", own, "--protocol", "crops", "--shards", tmp_path / "shards",
                           "--tune-on", "train", "--tune-pairs", "6", "--steps", "1", "--out", tmp_path / "out"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and "no pair has a true pixel" in done.stderr
    assert not (own / "segmentation.json").exists()


def test_crops_of_one_picture_keep_their_masks(data, model, tmp_path):
    """Several passes: a mask and a row with its number for every sample."""
    cocogold("encode", "--model", model, "--data", data, "--split", "val", "--out", tmp_path, "--min-side", 0, "--passes", 3)
    cocogold("eval", "--model", model, "--protocol", "crops", "--shards", tmp_path, "--split", "val", "--out", tmp_path,
             "--masks", "--steps", 1, "--bootstrap", 0)
    rows = list(csv.DictReader(open(tmp_path / "pairs.csv")))
    names = {f"{r['image_id']}-{r['class'].replace(' ', '_')}-{r['sample']}.png": r for r in rows}
    assert len(names) == len(rows) > len({(r["image_id"], r["class"]) for r in rows})
    assert {p.name for p in (tmp_path / "masks").iterdir()} == set(names)
    for name, row in names.items():
        assert (np.array(Image.open(tmp_path / "masks" / name)) > 0).sum() == int(row["predicted"])
    page = (tmp_path / "report.html").read_text()
    assert "Crops are scored at the training resolution" in page and "at their own resolution" not in page


def test_the_log_is_read_before_the_work(data, model, tmp_path):
    """--run without a log ends eval at once; a damaged one that was found near the model is a warning."""
    import shutil
    shutil.copytree(model, tmp_path / "run" / "model")
    (tmp_path / "run" / "log.jsonl").write_text('{"kind": "step", "step": 1, "loss": "what"}\n')
    common = ["eval", "--model", tmp_path / "run" / "model", "--data", data, "--limit", 1, "--steps", 1, "--out",
              tmp_path / "out"]
    done = subprocess.run([COCOGOLD, *map(str, common), "--run", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and f"{tmp_path}/log.jsonl: cannot be read" in done.stderr
    assert "DDIM" not in done.stdout and not (tmp_path / "out").exists()
    said = cocogold(*common).stderr
    assert 'log.jsonl: line 1: field "loss" is not a finite number: the report has no training curves' in said
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("arguments, message", [
    (["segment", "--model", "MODEL", "--image", "IMAGE", "--text", " "], "--text is missing"),
    (["segment", "--model", "MODEL", "--image", "none.png", "--text", "cat"], "none.png"),
    (["segment", "--model", "MODEL", "--image", "IMAGE", "--text", "cat", "--resolution", "63"], "multiple of"),
    (["segment", "--model", "MODEL", "--image", "IMAGE", "--text", "cat", "--method", "magic"], "--method magic"),
    (["segment", "--model", "nowhere", "--image", "IMAGE", "--text", "cat"], "nowhere"),
    (["eval", "--model", "MODEL", "--data", "DATA", "--split", "test"], "test"),
    (["eval", "--model", "MODEL", "--data", "DATA", "--steps-table", "1,x"], "--steps-table"),
    (["eval", "--model", "MODEL", "--data", "DATA", "--seen", "red circle,wug"], "wug"),
    (["eval", "--model", "MODEL", "--protocol", "crops"], "--shards"),
    (["eval", "--model", "MODEL", "--data", "DATA", "--run", "nowhere"], "nowhere/log.jsonl: cannot be read"),
    (["report"], "nothing to report"),
])
def test_mistakes_get_one_sentence(data, model, tmp_path, arguments, message):
    image = sorted((data / "val").iterdir())[0]
    places = {"MODEL": str(model), "DATA": str(data), "IMAGE": str(image)}
    done = subprocess.run([COCOGOLD, *[places.get(a, a) for a in arguments]], capture_output=True, text=True, cwd=tmp_path)
    print(done.stderr.strip())
    assert done.returncode == 1 and message in done.stderr
    assert len([line for line in done.stderr.strip().split("\n") if "warning" not in line]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", ["noise", "truth", "mean", "image"])
def test_starts_against_a_diffusers_loop(data, model, tmp_path, start):
    """eval --start with another schedule: masks of a few crops, against diffusers from the same start and noise."""
    import h5py
    from diffusers import DDIMScheduler, DiffusionPipeline

    from test_schedule import rescaled
    from test_train import SEED, normal

    signal, steps, inference = 0.4, 4, 9
    cocogold("encode", "--model", model, "--data", data, "--split", "val", "--out", tmp_path, "--min-side", 0)
    cocogold("eval", "--model", model, "--protocol", "crops", "--shards", tmp_path, "--split", "val", "--out", tmp_path,
             "--masks", "--method", "luminance", "--no-opening", "--bootstrap", 0, "--steps", steps, "--seed", SEED,
             "--terminal-signal", signal, "--timestep-spacing", "leading", "--start", start)
    metrics = json.loads((tmp_path / "metrics.json").read_text())["config"]
    assert metrics["start"] == start and metrics["timestep_spacing"] == "leading"
    assert metrics["terminal_signal"] == pytest.approx(signal, abs=1e-5)

    pipe = DiffusionPipeline.from_pretrained(model, local_files_only=True)
    common = {**pipe.scheduler.config, "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    scheduler = DDIMScheduler.from_config({**common, "trained_betas": None})
    scheduler = DDIMScheduler.from_config({**common, "trained_betas": rescaled(scheduler.betas, signal).tolist()})
    scheduler.set_timesteps(steps)
    assert int(scheduler.timesteps[0]) == metrics["first_timestep"]
    a = float(scheduler.alphas_cumprod[metrics["first_timestep"]]) ** 0.5
    with h5py.File(tmp_path / "val-00000.h5") as shard, torch.no_grad():
        names = [name.decode() for name in shard.attrs["classes"]]
        images, targets = (torch.tensor(shard[k][:].astype(np.float32)).permute(0, 3, 1, 2)
                           for k in ("image_latent", "target_overlay"))
        ids, classes = shard["image_id"][:], shard["class"][:]
        starts = {"noise": None, "truth": targets, "mean": targets.mean(0, keepdim=True).expand_as(targets),
                  "image": images}[start]
        worst = 1
        for i in range(4):
            h, w = images.shape[2:]
            noise = normal(h * w * 4, inference, 0, int(ids[i]) << 16 | int(classes[i]))
            x = torch.tensor(noise, dtype=torch.float32).reshape(1, h, w, 4).permute(0, 3, 1, 2)
            x = x if starts is None else a * starts[i : i + 1] + (1 - a * a) ** 0.5 * x
            tokens = pipe.tokenizer(names[classes[i]], padding="max_length", truncation=True, return_tensors="pt")
            context = pipe.text_encoder(tokens.input_ids).last_hidden_state
            for t in scheduler.timesteps:
                out = pipe.unet(torch.cat([images[i : i + 1], x], 1), t, encoder_hidden_states=context).sample
                x = scheduler.step(out, t, x).prev_sample
            picture = (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
            wanted = picture[0].mean(0).numpy() >= 0.5
            name = f"{ids[i]}-{names[classes[i]].replace(' ', '_')}-{i}.png"
            mask = np.array(Image.open(tmp_path / "masks" / name)) > 0
            worst = min(worst, (mask & wanted).sum() / max(1, (mask | wanted).sum()))
    print(f"start {start}: a = {a:.4f}, smallest IoU of four masks {worst:.4f}")
    assert worst > 0.99
