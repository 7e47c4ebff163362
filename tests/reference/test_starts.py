"""`cocogold analyze starts` against diffusers' MarigoldDepthPipeline from the same starts, with its scores by numpy."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldDepthPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from test_report import browse, needs_browser
from test_tiny_pipelines import PIPELINES, pipeline
from transformers import CLIPTextModel, CLIPTokenizer

STEPS = 3
SIDES = {"wide.png": (48, 32), "tall.jpg": (24, 40), "square.png": (32, 32)}


def strengthen(path, name, factor):
    """A random VAE hardly shows what it is given. This makes answers depend on their start."""
    tensors = load_file(path)
    tensors[f"{name}.weight"] *= factor
    save_file(tensors, path, {"format": "pt"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny pipeline of Marigold's kind, three pictures with depth maps of 16 bits with holes, and two that are bad."""
    from conftest import run_cocogold

    folder = tmp_path_factory.mktemp("starts")
    pipeline(folder / "source", **PIPELINES["tiny-sd2"])
    run_cocogold("init", "--from", folder / "source", folder / "model")
    # `init --from` gives zero terminal SNR and trailing timesteps. This takes the original's schedule, which leaks.
    shutil.copy(folder / "source/scheduler/scheduler_config.json", folder / "model/scheduler/scheduler_config.json")
    strengthen(folder / "model/vae/diffusion_pytorch_model.safetensors", "encoder.conv_out", 20)
    strengthen(folder / "model/vae/diffusion_pytorch_model.safetensors", "decoder.conv_in", 20)
    rng = np.random.default_rng(0)
    (folder / "rgb").mkdir()
    (folder / "depth").mkdir()
    for name, (width, height) in SIDES.items():
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        picture.save(folder / "rgb" / name)
        depth = (2000 + 400 * np.arange(width)[None] + rng.integers(0, 3000, (height, width))).astype(np.uint16)
        depth[rng.random((height, width)) < 0.2] = 0  # not measured
        Image.fromarray(depth).save(folder / "depth" / f"{name.split('.')[0]}.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "rgb" / "alone.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "rgb" / "flat.png")
    Image.fromarray(np.full((8, 8), 7, np.uint16)).save(folder / "depth" / "flat.png")
    for name in ("colours", "sparse"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "rgb" / f"{name}.png")
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "depth" / "colours.png")
    sparse = np.zeros((16, 16), np.uint16)
    sparse[3, 4:6] = 5, 6
    Image.fromarray(sparse).save(folder / "depth" / "sparse.png")
    return folder


@pytest.fixture(scope="module")
def analysis(folder):
    from conftest import run_cocogold

    text = run_cocogold("analyze", "starts", "--model", folder / "model", "--images", folder / "rgb", "--maps",
                        folder / "depth", "--steps", STEPS, "--resolution", 32, "--out", folder / "out")  # fmt: skip
    with open(folder / "out/pictures.csv") as file:
        rows = {row["picture"].rsplit("/", 1)[1]: row for row in csv.DictReader(file)}
    return rows, json.loads((folder / "out/starts.json").read_text()), text


def marigold(folder):
    model = folder / "model"
    return MarigoldDepthPipeline(
        unet=UNet2DConditionModel.from_pretrained(model / "unet"), vae=AutoencoderKL.from_pretrained(model / "vae"),
        scheduler=DDIMScheduler.from_pretrained(model / "scheduler"),
        text_encoder=CLIPTextModel.from_pretrained(model / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(model / "tokenizer"),
    )  # fmt: skip


def scores(answer, depth):
    """AbsRel and delta1 where there is depth, after the best scale and shift."""
    valid = depth > 0
    v, t = answer[valid].astype(np.float64), depth[valid].astype(np.float64)
    scale, shift = np.linalg.lstsq(np.stack([v, np.ones_like(v)], 1), t, rcond=None)[0]
    fitted = scale * v + shift
    ratio = np.maximum(fitted / t, t / np.where(fitted > 0, fitted, 1e-9))
    return np.mean(np.abs(fitted - t) / t), np.mean((fitted > 0) & (ratio < 1.25))


def to_three_channels(depth):
    """The VAE's input (1, 3, H, W): between the 2nd and the 98th percentile of what was measured; the mean elsewhere."""
    values = depth[depth > 0].astype(np.float64)
    low, high = np.percentile(values, [2, 98])
    filled = np.where(depth > 0, depth, values.mean())
    unit = np.clip(2 * (filled - low) / (high - low) - 1, -1, 1)
    return torch.tensor(unit, dtype=torch.float32)[None, None].repeat(1, 3, 1, 1)


def test_a_map_of_a_turned_picture(folder, cocogold):
    """A map fits the stored picture, or the picture as people see it, turned as EXIF says. The other one is turned then."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
    (folder / "turned").mkdir()
    for name, exif in {"upright": None, "turned": Image.Exif()}.items():
        if exif is not None:
            exif[0x112] = 6  # a quarter to the right
        stored = Image.fromarray(pixels if exif is None else np.rot90(pixels).copy())
        stored.save(folder / "turned" / f"{name}.png", **({} if exif is None else {"exif": exif}))
        Image.fromarray(rng.integers(1, 9000, (32, 48)).astype(np.uint16)).save(folder / "depth" / f"{name}.png")
    shutil.copy(folder / "depth/upright.png", folder / "depth/turned.png")
    rows = []
    for name in ("upright", "turned"):
        out = folder / f"of-{name}"
        cocogold("analyze", "starts", "--model", folder / "model", "--images", folder / "turned" / f"{name}.png", "--maps",
                 folder / "depth", "--steps", 1, "--resolution", 32, "--out", out)  # fmt: skip
        with open(out / "pictures.csv") as file:
            rows.append({key: value for key, value in next(csv.DictReader(file)).items() if key != "picture"})
    assert rows[0] == rows[1]


def test_against_marigold(folder, analysis, cocogold):
    rows, result, _ = analysis
    # Answered alone, the picture has the noise of number 0, which `segment` shows.
    (folder / "one").mkdir()
    cocogold("analyze", "starts", "--model", folder / "model", "--images", folder / "rgb/square.png", "--maps",
             folder / "depth", "--steps", STEPS, "--resolution", 32, "--out", folder / "one")  # fmt: skip
    with open(folder / "one/pictures.csv") as file:
        row = next(csv.DictReader(file))
    cocogold("segment", "--model", folder / "model", "--image", folder / "rgb/square.png", "--text", "x", "--steps", 1,
             "--resolution", 32, "--out", folder / "x", "--dump-noise", folder / "noise.bin")  # fmt: skip
    noise = torch.tensor(np.fromfile(folder / "noise.bin", np.float32)).reshape(1, 4, 16, 16)
    picture = Image.open(folder / "rgb/square.png")
    depth = np.array(Image.open(folder / "depth/square.png")).astype(np.float32)
    pipe = marigold(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(STEPS)
    a = float(pipe.scheduler.alphas_cumprod[pipe.scheduler.timesteps[0]] ** 0.5)
    assert abs(result["first_signal"] - a) < 1e-6
    with torch.no_grad():
        encode = lambda x: pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor  # noqa: E731
        true = encode(to_three_channels(depth))
        pixels = torch.tensor(np.array(picture), dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
        mean = true.mean((2, 3), keepdim=True).expand_as(true)
        starts = {"noise": noise}
        for name, latent in {"truth": true, "mean": mean, "image": encode(pixels)}.items():
            starts[name] = a * latent + (1 - a * a) ** 0.5 * noise
        for name, start in starts.items():
            answer = pipe(picture, num_inference_steps=STEPS, processing_resolution=0, latents=start).prediction[0, ..., 0]
            expected = scores(answer, depth)
            found = float(row[f"error_{name}"]), float(row[f"good_{name}"])
            print(f"{name}: AbsRel {expected[0]:.6f}, ours {found[0]:.6f}; delta1 {expected[1]:.4f}, ours {found[1]:.4f}")
            assert abs(found[0] - expected[0]) < 1e-4 and abs(found[1] - expected[1]) < 0.005
        through = pipe.decode_prediction(true)[0, 0].numpy()
    expected = scores(through, depth)
    print(f"ceiling: AbsRel {expected[0]:.6f}, ours {row['error_ceiling']}")
    assert abs(float(row["error_ceiling"]) - expected[0]) < 1e-4
    values = depth[depth > 0].astype(np.float64)
    assert abs(float(row["error_constant"]) - np.mean(np.abs(values.mean() - values) / values)) < 1e-4
    assert row["error_noise"] != row["error_truth"]


def test_summary(analysis):
    rows, result, text = analysis
    assert set(rows) == set(SIDES) and result["pictures"] == 3 and result["left_out"] == 4
    for key, value in result["starts"].items():
        errors = [float(row[f"error_{key}"]) for row in rows.values()]
        assert abs(value["error"]["value"] - np.mean(errors)) < 1e-5
    gain = result["starts"]["truth"]["gain"]
    assert abs(gain["value"] - (result["starts"]["noise"]["error"]["value"] - result["starts"]["truth"]["error"]["value"])) < 1e-6
    print(result["conclusion"])
    assert result["conclusion"] in text


def test_no_leak(folder, cocogold):
    cocogold("analyze", "starts", "--model", folder / "model", "--images", folder / "rgb", "--maps", folder / "depth",
             "--steps", STEPS, "--resolution", 32, "--out", folder / "zero", "--terminal-signal", 0,
             "--timestep-spacing", "trailing")  # fmt: skip
    starts = json.loads((folder / "zero/starts.json").read_text())["starts"]
    errors = [starts[k]["error"]["value"] for k in ("noise", "truth", "mean", "image")]
    print(f"without leak: errors {errors}")
    assert max(errors) - min(errors) < 1e-6


def test_pictures(folder, cocogold):
    """Maps of any kind: the picture as its own map."""
    cocogold("analyze", "starts", "--model", folder / "model", "--images", folder / "rgb/square.png", "--maps",
             folder / "rgb", "--kind", "picture", "--text", "a map", "--pad-text", "--resolution", 32, "--out",
             folder / "picture")  # fmt: skip
    starts = json.loads((folder / "picture/starts.json").read_text())["starts"]
    assert starts["truth"] == starts["image"]
    truth = np.array(Image.open(folder / "rgb/square.png")) / 255
    constant = np.abs(truth - truth.mean((0, 1))).mean()
    assert abs(starts["constant"]["error"]["value"] - constant) < 1e-5


def test_errors(folder, cocogold):
    where = "--model", folder / "model", "--resolution", 32, "--out", folder / "no"
    with pytest.raises(AssertionError, match="none of 1 pictures could be used"):  # after a warning that says why
        cocogold("analyze", "starts", *where, "--images", folder / "rgb/alone.png", "--maps", folder / "depth", fails=True)
    said = cocogold("analyze", "starts", *where, "--images", folder / "rgb", "--maps", folder / "nowhere", fails=True)
    assert "nowhere: is not a folder" in said


@needs_browser
def test_page(folder, analysis, tmp_path):
    browse(folder / "out/starts.html", tmp_path)
    assert (folder / "out/starts.html").read_text().count("<img") == 3 * 6
