"""Stable Diffusion 2's UNet at full size (866 M parameters, random weights) against diffusers: the forward pass at 64x64
latents, and two training steps at 32x32. PyTorch runs first, in a process of its own, and gives its memory back.

    test_full_size.py forward|step MODEL IN OUT STEPS PARAMETER...    PyTorch's side"""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

THREADS = min(4, os.cpu_count())
GIB = 1 << 30
NEEDED_MEMORY, NEEDED_DISK = 20 * GIB, 8 * GIB
PARAMETERS = [
    "conv_in.weight",
    "time_embedding.linear_1.weight",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
    "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k.weight",
    "down_blocks.2.resnets.1.conv1.weight",
    "mid_block.attentions.0.proj_in.weight",
    "up_blocks.1.resnets.2.conv_shortcut.weight",
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
    "conv_norm_out.weight",
    "conv_out.weight",
]


# ---- PyTorch's side --------------------------------------------------------------------------------------------------


def torch_side(mode, model, source, out, steps, *parameters):
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(THREADS)
    x = load_file(source)
    start = time.monotonic()
    unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    print(f"load {time.monotonic() - start:.2f} s")
    start = time.monotonic()
    if mode == "forward":
        with torch.no_grad():
            sample = unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample
        print(f"forward {time.monotonic() - start:.2f} s")
        save_file({"sample": sample.contiguous()}, out)
        return
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    named, results, losses, norms = dict(unet.named_parameters()), {}, [], []
    for step in range(int(steps)):
        start = time.monotonic()
        optimizer.zero_grad()
        prediction = unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample
        forward = time.monotonic()
        loss = torch.nn.functional.mse_loss(prediction, x["target"])
        loss.backward()
        backward = time.monotonic()
        norms.append(torch.stack([p.grad.double().norm() for p in unet.parameters()]).norm())
        measured = time.monotonic()
        optimizer.step()
        update = time.monotonic()
        losses.append(loss.detach())
        if step == 0:
            for name in parameters:
                results |= {f"grad.{name}": named[name].grad.clone(), name: named[name].detach().clone()}
        # the norm in double is the test's, not a training step's
        print(f"step {update - start - (measured - backward):.2f} s: forward {forward - start:.2f}, "
              f"backward {backward - forward:.2f}, update {update - measured:.2f}")  # fmt: skip
    save_file({"loss": torch.stack(losses), "grad_norm": torch.stack(norms)} | results, out)


if __name__ == "__main__":
    torch_side(*sys.argv[1:])
    sys.exit()

# ---- The test --------------------------------------------------------------------------------------------------------

from conftest import ROOT, program, relative_error, run_cocogold  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402


def available_memory():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def measured(label, *command):
    """Runs the command; prints its seconds and its peak memory."""
    start = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    print(f"{label}: {time.monotonic() - start:.1f} s in all, peak memory {usage.ru_maxrss / 2**20:.2f} GiB")
    print("".join(f"    {line}\n" for line in said.splitlines()), end="")
    return usage.ru_maxrss


@pytest.fixture(scope="module")
def sd2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full_size")
    memory, disk = available_memory(), shutil.disk_usage(folder).free
    if memory < NEEDED_MEMORY:
        pytest.skip(f"full size needs {NEEDED_MEMORY // GIB} GiB of free memory, {memory / GIB:.1f} are")
    if disk < NEEDED_DISK:
        pytest.skip(f"full size needs {NEEDED_DISK // GIB} GiB of free disk in {folder}, {disk / GIB:.1f} are")
    run_cocogold("init", "--preset", "sd2", folder / "sd2")
    for part in ("vae", "text_encoder"):
        shutil.rmtree(folder / "sd2" / part)
    yield folder
    shutil.rmtree(folder)


def inputs(path, B, side, seed):
    rng = np.random.default_rng(seed)
    tensors = {
        "sample": rng.standard_normal((B, 8, side, side), np.float32),
        "target": rng.standard_normal((B, 4, side, side), np.float32),
        "timestep": rng.integers(0, 1000, B),
        "encoder_hidden_states": rng.standard_normal((B, 77, 1024), np.float32),
    }
    save_file(tensors, path)
    return path


def torch_process(mode, folder, x, out, *rest):
    return measured(f"PyTorch {mode}", sys.executable, __file__, mode, folder / "sd2", x, out, *rest)


def test_forward(sd2):
    x = inputs(sd2 / "in.safetensors", 1, 64, 1)
    theirs = torch_process("forward", sd2, x, sd2 / "theirs.safetensors", 0)
    mine = measured("cocogold probe", program(), "probe", "unet", "--model", sd2 / "sd2", "--in", x, "--out",
                    sd2 / "ours.safetensors")  # fmt: skip
    ours = load_file(sd2 / "ours.safetensors")["sample"]
    error = relative_error(ours, load_file(sd2 / "theirs.safetensors")["sample"])
    print(f"sample {ours.shape}: relative error {error:.1e}; memory {mine / theirs:.0%} of PyTorch's")
    assert error <= 1e-5


def test_step(sd2):
    step = "build/cpu-fp32/tests/train/step"
    subprocess.run(["make", "-s", "BACKEND=cpu", "PRECISION=fp32", step], cwd=ROOT, check=True, capture_output=True)
    x = inputs(sd2 / "in.safetensors", 1, 32, 2)
    theirs = torch_process("step", sd2, x, sd2 / "theirs.safetensors", 2, *PARAMETERS)
    mine = measured("cocogold step", ROOT / step, sd2 / "sd2", x, sd2 / "ours.safetensors", 2, *PARAMETERS)
    ours, reference = load_file(sd2 / "ours.safetensors"), load_file(sd2 / "theirs.safetensors")
    print(f"memory {mine / theirs:.0%} of PyTorch's")
    for name, tolerance in {"loss": 1e-5, "grad_norm": 1e-4}.items():
        print(f"{name}: {ours[name]}, PyTorch {reference[name]}")
        # the second step follows the first one's update
        assert np.all(np.abs(ours[name] / reference[name] - 1) <= tolerance * np.array([1, 10]))
    for name in PARAMETERS:
        gradient = relative_error(ours[f"grad.{name}"], reference[f"grad.{name}"])
        weight = relative_error(ours[name], reference[name])
        print(f"{name}: gradient {gradient:.1e}, updated weight {weight:.1e}")
        assert gradient <= 1e-4 and weight <= 1e-5
