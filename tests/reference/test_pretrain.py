"""Steps of `pretrain` against PyTorch: the same captions, noise and timesteps (Philox in numpy), diffusers' UNet,
transformers' text encoder, torch's AdamW. With the text encoder trained, with it frozen, and gradients one by one."""

import json

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from conftest import relative_error, run_cocogold
from test_train import (
    BETAS, CLIP, DECAY, EMA, EPSILON, FINAL, LR, MICRO_STEPS, NOISE, ROWS, SEED, STEPS, TIMESTEP, TOTAL, WARMUP, below,
    normal, permutation, philox, uniform,
)  # fmt: skip

EMPTY = 14  # stream of util/philox.h
EMPTY_TEXT = 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A text-to-image model, and the latents of captioned scenes by its random VAE."""
    folder = tmp_path_factory.mktemp("pretrain")
    run_cocogold("init", "--preset", "mini", "--text-to-image", folder / "model")
    run_cocogold("synth", folder / "data", "--train", 40, "--val", 8)
    for split in ("train", "val"):
        run_cocogold("encode", "--model", folder / "model", "--data", folder / "data", "--split", split, "--out",
                     folder / "latents", "--texts", "captions", "--min-side", 1)  # fmt: skip
    return folder


def pretrain(base, name, *options):
    out = base / name
    run_cocogold(
        "pretrain", "--model", base / "model", "--shards", base / "latents", "--out", out, "--train-batch-size", ROWS,
        "--gradient-accumulation-steps", MICRO_STEPS, "--seed", SEED, "--empty-text", EMPTY_TEXT, "--checkpoint-every", 1,
        "--checkpoints-total-limit", 0, "--no-roofline", *options,
    )  # fmt: skip
    return out, [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def five_steps(base, name, *options):
    return pretrain(base, name, "--max-train-steps", STEPS, "--lr", LR, "--lr-scheduler", "exponential", "--lr-warmup-steps",
                    WARMUP, "--lr-total-steps", TOTAL, "--lr-final", FINAL, "--adam-beta2", BETAS[1], "--weight-decay", DECAY,
                    "--max-grad-norm", CLIP, "--ema-decay", EMA, "--validate-every", STEPS, "--validation-samples", 8,
                    "--validation-steps", 3, *options)  # fmt: skip


class Captions:
    def __init__(self, folder):
        with h5py.File(folder / "train-00000.h5") as f:
            self.latent = f["image_latent"][:].astype(np.float32)
            texts = [t.decode() for t in f["texts"][:]]
            self.text = [texts[i] for i in f["text"][:]]

    def sample(self, position):
        n = len(self.text)
        return permutation(position // n, n)[position % n]


class Reference:
    """The model in PyTorch, and the loss of micro-batches."""

    def __init__(self, base):
        model = base / "model"
        self.captions = Captions(base / "latents")
        self.unet = UNet2DConditionModel.from_pretrained(model / "unet")
        self.text = CLIPTextModel.from_pretrained(model / "text_encoder").eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.scheduler = DDIMScheduler.from_pretrained(model / "scheduler")
        self.empty = 0

    def loss(self, step, micro):
        positions = [(step * MICRO_STEPS + micro) * ROWS + b for b in range(ROWS)]
        rows = [self.captions.sample(p) for p in positions]
        t = torch.tensor([int(below(philox(SEED, TIMESTEP, step, p, [0])[0][1:2], 1000)[0]) for p in positions])
        empty = [uniform(philox(SEED, EMPTY, 0, p, [0])[0][:1])[0] < EMPTY_TEXT for p in positions]
        self.empty += sum(empty)
        texts = ["" if e else self.captions.text[r] for r, e in zip(rows, empty, strict=True)]
        h, w, channels = self.captions.latent.shape[1:]
        noise = np.stack([normal(h * w * channels, NOISE, step, p).reshape(h, w, channels) for p in positions])
        noise, x0 = (torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2) for x in (noise, self.captions.latent[rows]))
        ids = self.tokenizer(texts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
                             return_tensors="pt").input_ids  # fmt: skip
        goal = self.scheduler.get_velocity(x0, noise, t)
        prediction = self.unet(self.scheduler.add_noise(x0, noise, t), t, self.text(ids).last_hidden_state).sample
        return ((prediction - goal) ** 2).mean() / MICRO_STEPS

    def backward(self, step):
        total = 0.0
        for micro in range(MICRO_STEPS):
            loss = self.loss(step, micro)
            loss.backward()
            total += loss.item()
        return total


def state(module):
    return {k: v.detach().clone() for k, v in module.state_dict().items() if not k.endswith("position_ids")}


def flat(weights, keys):
    return np.concatenate([weights[k].numpy().ravel() for k in keys])


def saved(out, step, suffix=""):
    folder = out / f"checkpoint-{step:06d}"
    text = CLIPTextModel.from_pretrained(folder / f"text_encoder{suffix}")
    return state(UNet2DConditionModel.from_pretrained(folder / f"unet{suffix}")), state(text)


@pytest.mark.parametrize("train_text", [True, False])
def test_five_steps(base, train_text):
    out, log = five_steps(base, f"text-{train_text}", *(["--train-text-encoder"] if train_text else []))
    lines = [line for line in log if line["kind"] == "step"]
    reference = Reference(base)
    modules = [reference.unet, reference.text] if train_text else [reference.unet]
    reference.text.requires_grad_(train_text)
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    start, average = [state(m) for m in modules], [state(m) for m in modules]
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = reference.backward(step)
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP).item()
        x = min(1, (step - WARMUP) / (TOTAL - WARMUP))
        optimizer.param_groups[0]["lr"] = LR * (step + 1) / WARMUP if step < WARMUP else LR * FINAL**x
        optimizer.step()
        decay, now = min(EMA, (1 + step) / (10 + step)), [state(m) for m in modules]
        average = [{k: decay * v + (1 - decay) * n[k] for k, v in a.items()} for a, n in zip(average, now, strict=True)]
        line = lines[step]
        errors = {"loss": abs(line["loss"] - loss) / loss, "norm": abs(line["grad_norm"] - norm) / norm}
        ours = saved(out, step + 1)
        for name, theirs, mine, first in zip(("unet", "text"), now, ours, start, strict=False):
            keys = list(first)
            errors[name] = relative_error(flat(mine, keys), flat(theirs, keys))
            errors[f"{name} change"] = relative_error(flat(mine, keys) - flat(first, keys), flat(theirs, keys) - flat(first, keys))
        print(f"step {step + 1}: loss {loss:.5f}, norm {norm:.4f};", {n: f"{e:.1e}" for n, e in errors.items()})
        assert errors.pop("loss") < 1e-5
        for name, error in errors.items():
            assert error < (1e-2 if name.endswith("change") else 1e-4), name
    assert 0 < reference.empty < STEPS * MICRO_STEPS * ROWS
    ema = saved(out, STEPS, "_ema") if train_text else [state(UNet2DConditionModel.from_pretrained(out / "model/unet_ema"))]
    for mine, theirs in zip(ema, average, strict=True):
        assert relative_error(flat(mine, list(theirs)), flat(theirs, list(theirs))) < 1e-4
    if not train_text:
        assert (out / "model/text_encoder/model.safetensors").samefile(base / "model/text_encoder/model.safetensors")


def test_gradients(base):
    """One step of AdamW with epsilon 1: lr g / (|g| + 1) is how much a weight changes."""
    lr = 10
    out, _ = pretrain(base, "gradients", "--train-text-encoder", "--max-train-steps", 1, "--lr", lr, "--lr-scheduler",
                      "constant", "--lr-warmup-steps", 0, "--adam-epsilon", 1, "--validate-every", 0)  # fmt: skip
    reference = Reference(base)
    start = state(reference.unet), state(reference.text)
    reference.backward(0)
    for name, module, first, mine in zip(("unet", "text"), (reference.unet, reference.text), start, saved(out, 1), strict=True):
        wanted = {k: p.grad for k, p in module.named_parameters()}
        assert wanted.keys() == first.keys()
        change = {k: ((first[k].double() - mine[k].double()) / lr) for k in first}
        found = {k: c / (1 - c.abs()) for k, c in change.items()}
        largest = max(np.linalg.norm(g.numpy()) for g in wanted.values())
        errors = {k: relative_error(found[k].numpy(), wanted[k].numpy(), 1e-3 * largest) for k in wanted}
        worst = max(errors, key=errors.get)
        total = relative_error(flat(found, list(wanted)), flat(wanted, list(wanted)))
        print(f"{name}: {len(errors)} tensors, all {total:.1e}, worst {errors[worst]:.1e} ({worst})")
        assert total < 1e-4 and errors[worst] < 1e-3


def test_the_saved_model(base, tmp_path):
    """diffusers draws with it what we draw; `init --from` makes an 8-channel model of it that keeps the text encoder."""
    model = base / "text-True" / "model"
    if not model.exists():
        five_steps(base, "text-True", "--train-text-encoder")
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    assert pipe.unet.config.in_channels == 4 and pipe.unet.config.sample_size == 16
    run_cocogold("generate", "--model", model, "--text", "a red circle", "--count", 1, "--steps", 4, "--guidance", 3, "--out",
                 tmp_path / "out", "--dump-noise", tmp_path / "noise", "--dump-latents", tmp_path / "latents")  # fmt: skip
    noise, latents = (np.fromfile(tmp_path / n, np.float32).reshape(1, 4, 16, 16) for n in ("noise", "latents"))
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe("a red circle", height=64, width=64, num_inference_steps=4, guidance_scale=3, output_type="latent",
                  latents=torch.from_numpy(noise)).images  # fmt: skip
    assert relative_error(latents, wanted.numpy()) < 1e-4
    run_cocogold("init", "--from", model, tmp_path / "start")
    start = StableDiffusionPipeline.from_pretrained(tmp_path / "start", safety_checker=None)
    assert start.unet.config.in_channels == 8
    half = torch.cat([pipe.unet.conv_in.weight] * 2, 1) / 2
    assert torch.equal(start.unet.conv_in.weight, half)
    assert (tmp_path / "start/text_encoder/model.safetensors").samefile(model / "text_encoder/model.safetensors")
    assert not (tmp_path / "start/text_encoder_ema").exists()
