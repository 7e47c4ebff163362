"""`generate` against diffusers' StableDiffusionPipeline with its DDIMScheduler, from the same noise: small pipelines with
random weights like Stable Diffusion 1 (epsilon) and 2 (velocity), with and without guidance, odd latent sizes."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

from conftest import relative_error
from test_tiny_pipelines import BETAS, pipeline

V = dict(prediction_type="v_prediction", clip_sample=False, **BETAS)
SD1 = dict(channels=(32, 64), groups=32, heads=8, text_heads=4)
SD2 = dict(channels=(32, 64), groups=32, heads=(2, 4), text_heads=4, act="gelu", linear=True)
PIPELINES = {
    # as in SD1's file
    "epsilon": SD1 | dict(scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False, **BETAS)),
    # as in SD2's file
    "v, leading": SD2 | dict(scheduler=DDIMScheduler(set_alpha_to_one=False, steps_offset=1, **V)),
    "v, trailing": SD2 | dict(scheduler=DDIMScheduler(timestep_spacing="trailing", rescale_betas_zero_snr=True, **V)),
}  # fmt: skip


@pytest.fixture(scope="module", params=PIPELINES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "model"
    pipeline(folder, **PIPELINES[request.param])
    return folder


def reference(folder, noise, text, negative, guidance, steps, side):
    """Latents and pictures (count, side, side, 3) in [0, 1]."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    # the pipeline's own rule: it turns clip_sample off, which DDIMScheduler's default would turn on
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.check_inputs = lambda *_, **__: None  # it wants multiples of 8 pixels, for a VAE of that factor
    count = len(noise)
    call = dict(prompt=[text] * count, negative_prompt=[negative] * count, guidance_scale=guidance, height=side, width=side,
                num_inference_steps=steps, latents=torch.from_numpy(noise))  # fmt: skip
    return pipe(**call, output_type="latent").images.numpy(), pipe(**call, output_type="np").images


# Few steps: random weights amplify rounding. After 8 steps of epsilon with guidance 7.5 diffusers in fp32 is 9e-4 away from
# diffusers in fp64, and so are we (1.7e-3).
@pytest.mark.parametrize("guidance, steps, side, negative", [(1, 5, 32, ""), (7.5, 4, 34, ""), (3, 4, 46, "a dog")])
def test_generate(cocogold, tmp_path, model, guidance, steps, side, negative):
    count, cells = 3, side // 2
    cocogold("generate", "--model", model, "--text", "a squirrel, eating", "--negative-text", negative, "--guidance",
             guidance, "--steps", steps, "--resolution", side, "--count", count, "--batch", 2, "--seed", 5, "--out",
             tmp_path / "out", "--dump-noise", tmp_path / "noise", "--dump-latents", tmp_path / "latents")  # fmt: skip
    read = lambda name: np.fromfile(tmp_path / name, np.float32).reshape(count, 4, cells, cells)  # noqa: E731
    noise, latents = read("noise"), read("latents")
    assert noise.std() == pytest.approx(1, abs=0.1) and abs(noise[0] - noise[1]).max() > 1
    wanted, pictures = reference(model, noise, "a squirrel, eating", negative, guidance, steps, side)
    error = relative_error(latents, wanted)
    found = np.stack([np.array(Image.open(tmp_path / f"out-{i}.png")) / 255 for i in range(count)])
    difference = np.abs(found - pictures).max() * 255
    print(f"guidance {guidance}, {steps} steps, {side} pixels: latents {error:.1e}, pictures {difference:.2f}/255")
    assert error < 1e-4 and pictures.std() > 0.01 and difference < 0.6
    assert Image.open(tmp_path / "out.png").width > 2 * side


def test_guidance_and_default_resolution(cocogold, tmp_path, model):
    """Guidance matters; the batch does not; the side is sample_size times the VAE's factor."""
    pictures = {}
    for name, options in {"none": ("--guidance", 1), "some": (), "batch": ("--batch", 1)}.items():
        cocogold("generate", "--model", model, "--text", "a squirrel", "--steps", 2, "--count", 2, "--out",
                 tmp_path / name, *options)  # fmt: skip
        pictures[name] = np.array(Image.open(tmp_path / f"{name}-1.png")).astype(int)
    assert pictures["some"].shape == (64, 64, 3)
    assert np.abs(pictures["some"] - pictures["none"]).max() > 2
    assert np.abs(pictures["some"] - pictures["batch"]).max() <= 1


def test_other_models(cocogold, tmp_path, model, mini):
    assert "in_channels" in cocogold("generate", "--model", mini, "--text", "a", "--out", tmp_path / "x", fails=True)
    assert not list(tmp_path.iterdir())
