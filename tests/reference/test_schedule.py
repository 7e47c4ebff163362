"""Noise schedule, timesteps and DDIM steps against diffusers' DDIMScheduler."""

import itertools
import subprocess

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

SPACINGS = ["leading", "trailing", "linspace"]
STEPS = [1, 2, 3, 4, 7, 10, 50, 333, 999]


def lines(program, *arguments, stdin=None):
    result = subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return [np.array(line.split(), float) for line in result.stdout.decode().splitlines()]


def write(scheduler, tmp_path):
    scheduler.save_pretrained(tmp_path)
    return tmp_path / "scheduler_config.json"


def previous_alphas(scheduler, steps):
    for t in scheduler.timesteps:
        previous = int(t) - scheduler.config.num_train_timesteps // steps
        yield scheduler.alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_and_alphas(model_dump, tmp_path, spacing, beta_schedule, zero_snr):
    for steps, offset, one in itertools.product(STEPS, [0, 1], [False, True]):
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule=beta_schedule,
            prediction_type="v_prediction",
            timestep_spacing=spacing,
            steps_offset=offset,
            set_alpha_to_one=one,
            rescale_betas_zero_snr=zero_snr,
        )
        scheduler.set_timesteps(steps)
        alphas, timesteps, *pairs = lines(model_dump, "schedule", write(scheduler, tmp_path), steps)
        expected = scheduler.alphas_cumprod.numpy()
        # with zero SNR small numbers come from differences of square roots
        close = 1e-5 if zero_snr else 2e-6
        np.testing.assert_allclose(alphas, expected, rtol=close)
        assert (alphas[-1] == 0) == zero_snr == (expected[-1] == 0)
        assert timesteps.tolist() == scheduler.timesteps.tolist()
        pairs = np.array(pairs)
        np.testing.assert_allclose(pairs[:, 0], expected[scheduler.timesteps], rtol=close)
        np.testing.assert_allclose(pairs[:, 1], np.array(list(previous_alphas(scheduler, steps))), rtol=close)


def rescaled(betas, signal):
    """Algorithm 1 of Lin et al. with another last value of sqrt(alphas_cumprod) than 0, in double precision."""
    roots = torch.cumprod(1 - betas.double(), 0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    bars = ((roots - last) * (first - signal) / (first - last) + signal) ** 2
    return 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])


@pytest.mark.parametrize("signal", [0.03, 0.14, 0.27, 0.9])
def test_terminal_signal(model_dump, tmp_path, signal):
    common = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction")
    betas = rescaled(DDIMScheduler(**common).betas, signal)
    scheduler = DDIMScheduler(**common, trained_betas=betas.tolist(), timestep_spacing="leading", clip_sample=False)
    scheduler.set_timesteps(50)
    alphas, timesteps, *_ = lines(model_dump, "schedule", write(scheduler, tmp_path), 50)
    error = np.abs(alphas / scheduler.alphas_cumprod.numpy() - 1).max()
    print(f"terminal signal {signal}: {alphas[-1] ** 0.5:.6f}, alphas_cumprod differ by {error:.1e}")
    assert abs(alphas[-1] ** 0.5 - signal) < 1e-5 and error < 2e-5
    assert timesteps.tolist() == scheduler.timesteps.tolist()
    # other betas are refused
    scheduler = DDIMScheduler(**common, trained_betas=(betas * 0.99).tolist())
    result = subprocess.run([model_dump, "schedule", write(scheduler, tmp_path), "50"], capture_output=True, text=True)
    assert result.returncode == 1 and "trained_betas" in result.stderr


@pytest.mark.parametrize("T", [10, 77, 1000])
def test_other_lengths(model_dump, tmp_path, T):
    for steps in range(1, min(T, 40)):
        for spacing in SPACINGS:
            scheduler = DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
            scheduler.set_timesteps(steps)
            timesteps = lines(model_dump, "schedule", write(scheduler, tmp_path), steps)[1]
            # rounding can make numpy.arange(T, 0, -T / steps) one longer; diffusers then ends with a timestep of -1
            expected = [t for t in scheduler.timesteps.tolist() if t >= 0]
            assert timesteps.tolist() == expected and len(expected) == steps


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
def test_ddim(model_dump, tmp_path, prediction):
    rng = np.random.default_rng(0)
    for steps, spacing in itertools.product([1, 3, 4, 10, 50], SPACINGS):
        scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
            timestep_spacing=spacing,
            set_alpha_to_one=False,
            clip_sample=False,
            rescale_betas_zero_snr=prediction != "epsilon",
        )
        path = write(scheduler, tmp_path)
        scheduler = DDIMScheduler.from_pretrained(tmp_path)
        start = rng.standard_normal(1001).astype(np.float32)
        x = torch.from_numpy(start.copy())
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(0.5 * x + 0.01 * float(t) / 1000, t, x).prev_sample
        out = np.array(lines(model_dump, "ddim", path, steps, start.size, stdin=start.tobytes()))[:, 0]
        error = np.linalg.norm(out - x.numpy()) / np.linalg.norm(x.numpy())
        assert error < 1e-5, (steps, spacing, error)


def test_other_scheduler_classes(model_dump, tmp_path):
    """SD1's directories name PNDMScheduler; DDIMScheduler.from_pretrained reads them as we do."""
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    path = write(scheduler, tmp_path)
    expected = DDIMScheduler.from_pretrained(tmp_path)
    expected.set_timesteps(20)
    alphas, timesteps, *_ = lines(model_dump, "schedule", path, 20)
    assert timesteps.tolist() == expected.timesteps.tolist()
    np.testing.assert_allclose(alphas, expected.alphas_cumprod.numpy(), rtol=2e-6)
