"""bench/torch_unet.py and diffusers' UNet: the same names of weights, the same output and gradients."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, program

sys.path.insert(0, str(ROOT / "bench"))
import torch_unet  # noqa: E402


@pytest.mark.parametrize("preset", ["mini", "quarter-sd2"])
def test_same_as_diffusers(tmp_path, preset):
    from diffusers import UNet2DConditionModel

    path = tmp_path / "config.json"
    subprocess.run([program(), "bench", "step", "--preset", preset, "--batch", "1", "--size", "8", "--runs", "1",
                    "--write-config", str(path)], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    config = json.loads(path.read_text())
    torch.manual_seed(0)
    theirs = UNet2DConditionModel.from_config(config)
    ours = torch_unet.UNet(config)
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    x, t = torch.randn(2, config["in_channels"], 16, 16), torch.tensor([3, 977])
    context = torch.randn(2, 5, config["cross_attention_dim"])
    a, b = ours(x, t, context), theirs(x, t, context).sample
    print(f"{preset}: outputs differ by at most {(a - b).abs().max():.1e}")
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    a.square().mean().backward(), b.square().mean().backward()
    for p, q in zip(ours.parameters(), (dict(theirs.named_parameters())[n] for n, _ in ours.named_parameters())):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)
