"""Fixtures of the evaluation tests: a small data set, a random mini model and its evaluation; pages whose lines run."""
import os
import pathlib
import re
import shlex
import subprocess

import pytest
import torch

from conftest import ROOT

COCOGOLD = os.path.abspath(os.environ.get("COCOGOLD", "./cocogold"))


def cocogold(*arguments, **kwargs):
    return subprocess.run([COCOGOLD, *map(str, arguments)], check=True, capture_output=True, text=True, **kwargs)


def run_page(page, folder, least):
    """Runs the indented commands and the blocks of Python of a page in docs/, in their order; returns Python's names."""
    names = {}
    parts = re.findall(r"^    cocogold ([^\n]*)$|^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.M | re.S)
    assert len(parts) >= least
    for command, code in parts:
        if command:
            subprocess.run([COCOGOLD, *shlex.split(command)], check=True, cwd=folder, capture_output=True)
        else:
            exec(code, names)
    return names


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation") / "data"
    cocogold("synth", folder, "--size", 96, "--height", 64, "--train", 24, "--val", 16)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation") / "model"
    cocogold("init", "--preset", "mini", folder)
    return folder


@pytest.fixture(scope="session")
def evaluated(data, model, tmp_path_factory) -> pathlib.Path:
    """A random UNet draws noise: half of it is brighter than grey, which gives masks that are worth comparing."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    cocogold("eval", "--model", model, "--data", data, "--split", "val", "--out", out, "--method", "luminance",
             "--seen", "@" + str(data / "classes" / "seen.txt"), "--steps-table", "1,2", "--absent", 0.5, "--masks",
             "--no-opening", "--bootstrap", 200)
    return out


def diffusers_prediction(model, image, text, noise, steps):
    """What `segment` computes, as a loop over the modules that diffusers loads: (1, 3, H, W) in [0, 1]."""
    from diffusers import DDIMScheduler, DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(model, local_files_only=True)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        ids = pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
        context = pipe.text_encoder(ids).last_hidden_state
        scale = pipe.vae.config.scaling_factor
        picture = pipe.vae.encode(image).latent_dist.mean * scale
        x = noise
        for t in scheduler.timesteps:
            out = pipe.unet(torch.cat([picture, x], 1), t, encoder_hidden_states=context).sample
            x = scheduler.step(out, t, x).prev_sample
        return (pipe.vae.decode(x / scale).sample / 2 + 0.5).clamp(0, 1)
