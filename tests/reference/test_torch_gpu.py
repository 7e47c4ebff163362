"""bench/torch_gpu.py as far as a CPU shows it: --layer, the kernel lab's row of PyTorch, for each layer of the lab at an odd
shape, and the sentences without a GPU or for a wrong shape; and that --seconds ends it, with what it has measured."""

import itertools
import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_cocogold

SHAPES = {
    "conv2d": "2,7,5,8,12,3,2",
    "attention": "2,3,33,77,24,0",
    "groupnorm": "3,5,320,32,1",
    "groupnorm_backward": "1,33,30,3,0",
    "layernorm": "3,33",
    "adam": "513",
}
# layer, function of kernels.h, and sizes, from the table of lab.c
LAB = re.findall(r'^ +\{"(\w+)", "(\w+)", "([\w,]+)",', (ROOT / "bench" / "lab.c").read_text(), re.MULTILINE)


def ask(layer, function, shape):
    """What it prints on the CPU, in fp32."""
    command = [sys.executable, ROOT / "bench" / "torch_gpu.py", "--layer", layer, "--function", function]
    options = ["--shape", shape, "--runs", "2", "--device", "cpu", "--fp32"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_table():
    assert [layer for layer, _, _ in LAB] == list(SHAPES)


@pytest.mark.parametrize("layer, function, sizes", LAB)
def test_layer(layer, function, sizes):
    shape = SHAPES[layer]
    assert shape.count(",") == sizes.count(",")
    said = ask(layer, function, shape)
    assert said["seconds"] > 0 and len(said["name"]) <= 52 - len("PyTorch ")


def test_errors():
    assert ask("conv2d", "conv2d_nothing", "1,4,4,8,8,3,1")["error"] == "no conv2d_nothing"
    assert ask("conv2d", "conv2d_forward", f"1,{1 << 20},{1 << 20},64,64,3,1")["error"]  # more than any memory


@pytest.fixture
def folder(tmp_path):
    """Two steps and a kernel as check.sh measures them."""
    for batch in (1, 2):
        run_cocogold("bench", "step", "--preset", "mini", "--batch", batch, "--size", 8, "--runs", 1,
                     "--json", tmp_path / f"step-{batch}.json", "--write-config", tmp_path / "unet.json")  # fmt: skip
    run_cocogold("bench", "upsample", "--shapes", "sd2-64", "--runs", 1, "--json", tmp_path / "speed-1.json")
    return tmp_path


@pytest.fixture
def torch_gpu(monkeypatch, folder):
    """The script as a module; main() reads that folder."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import torch_gpu

    monkeypatch.setattr(sys, "argv", ["torch_gpu.py", str(folder), "--device", "cpu", "--fp32", "--runs", "2", "--seconds", "60"])
    return torch_gpu


def measured(folder):
    return {name: rows for name, rows in json.loads((folder / "pytorch.json").read_text()).items() if rows}


def test_everything(torch_gpu, folder):
    torch_gpu.main()
    assert set(measured(folder)) == {"step-1", "step-2", "speed-1"}
    assert len(measured(folder)["speed-1"]) == 2 and (folder / "pytorch.md").read_text().count("training step") == 2
    assert not list(folder.glob("*.part"))


def test_seconds_hold_within_a_step(torch_gpu, folder, monkeypatch):
    clock = itertools.count(0, 7)  # a look takes 7 of the 60 seconds: one model's steps and the other's first
    monkeypatch.setattr(torch_gpu, "time", SimpleNamespace(monotonic=lambda: next(clock), perf_counter=time.perf_counter))
    torch_gpu.main()
    assert set(measured(folder)) == {"step-1"}


def test_no_time_at_all(torch_gpu, folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "0"])
    with pytest.raises(SystemExit, match="nothing was measured in 0 s"):
        torch_gpu.main()


def test_what_was_measured_stays(torch_gpu, folder, monkeypatch):
    monkeypatch.setattr(torch_gpu, "kernels", lambda *_: sys.exit("killed"))
    with pytest.raises(SystemExit, match="killed"):
        torch_gpu.main()
    assert set(measured(folder)) == {"step-1", "step-2"}
