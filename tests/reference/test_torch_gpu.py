"""bench/torch_gpu.py --layer, the kernel lab's row of PyTorch, as far as a CPU shows it: each layer of the lab at an odd
shape, and the sentences without a GPU or for a wrong shape."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

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
