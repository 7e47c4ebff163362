"""bench/torch_gpu.py as far as a CPU shows it: --layer, the kernel lab's row of PyTorch, for each layer of the lab at an odd
shape, and the sentences without a GPU or for a wrong shape; that --seconds ends it, with what it has measured; and on a GPU
that only notes its calls, in which order it is asked."""

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
    clock = itertools.count(0, 7)  # a look takes 7 of the 60 seconds: one model's steps, and some in its other layout
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


def test_steps_beside_both_layouts(torch_gpu, folder, monkeypatch):
    """The better of the two layouts counts; one that fails, as without memory, leaves the other."""
    seconds = {"channels_last": [3.0], "NCHW": [2.0]}
    monkeypatch.setattr(torch_gpu, "training_step", lambda ours, config, layout, args: layout)
    monkeypatch.setattr(torch_gpu, "step_seconds", lambda layout, args, deadline: seconds[layout])
    torch_gpu.main()
    assert measured(folder)["step-1"] == {"seconds": 2.0, "peak_bytes": 0, "layout": "NCHW"}
    assert "| training step (PyTorch eager, NCHW) |" in (folder / "pytorch.md").read_text()
    del seconds["NCHW"]

    def one_fits(layout, args, deadline):
        if layout not in seconds:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nmore")
        return seconds[layout]

    monkeypatch.setattr(torch_gpu, "step_seconds", one_fits)
    torch_gpu.main()
    assert measured(folder)["step-1"]["layout"] == "channels_last"


def test_steps_without_memory(torch_gpu, folder, monkeypatch, capsys):
    def none_fits(*_):
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(torch_gpu, "step_seconds", none_fits)
    torch_gpu.main()
    assert set(measured(folder)) == {"speed-1"} and "step-2.json: CUBLAS_STATUS_ALLOC_FAILED" in capsys.readouterr().out


def test_a_row_that_fails(torch_gpu, folder, monkeypatch):
    """A function that this PyTorch lacks costs its rows only."""

    def lacking(*_):
        raise AttributeError("module 'torch' has no attribute 'upsample'")

    monkeypatch.setitem(torch_gpu.compare.TWINS, "upsample", lacking)
    torch_gpu.main()
    assert set(measured(folder)) == {"step-1", "step-2"}


def test_compiled_backward_is_timed_again(torch_gpu, monkeypatch):
    config = torch_gpu.torch._functorch.config
    monkeypatch.setattr(config, "donated_buffer", True)
    monkeypatch.setattr(torch_gpu.torch, "compile", lambda function, **_: function)
    assert torch_gpu.compiled_functions() and not config.donated_buffer


# ---- A GPU that only notes its calls ---------------------------------------------------------------------------------


@pytest.fixture
def calls(torch_gpu, folder, monkeypatch):
    """The calls to this GPU, in order; tensors are the CPU's."""
    notes, cuda, events = [], torch_gpu.torch.cuda, itertools.count()

    class Event:
        def __init__(self, enable_timing=False):
            self.number = next(events)

        def record(self):
            notes.append(f"record {self.number}")

        def synchronize(self):
            notes.append(f"wait {self.number}")

        def elapsed_time(self, other):
            return 1.0

    fake = {
        "Event": Event,
        "is_available": lambda: True,
        "get_device_properties": lambda _: SimpleNamespace(),  # as PyTorch 2.4's, without the size of the L2 cache
        "mem_get_info": lambda: (10, 80),
        **{name: lambda *_, n=name: notes.append(n) for name in ("_sleep", "synchronize", "empty_cache")},
    }
    for name, function in fake.items():
        monkeypatch.setattr(cuda, name, function)
    monkeypatch.setattr(torch_gpu.torch, "set_default_device", lambda _: None)
    monkeypatch.setattr(torch_gpu, "compiled_functions", lambda: None)
    for path in folder.glob("s*-?.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "device": "a GPU"}))
    monkeypatch.setattr(sys, "argv", [word.replace("cpu", "cuda") for word in sys.argv])
    return notes


def test_gpu_is_busy_while_a_call_is_queued(torch_gpu, calls):
    clock = torch_gpu.Clock("cuda")
    flush, clock.flush = clock.flush, SimpleNamespace(zero_=lambda: calls.append("flush"))
    assert flush.numel() == 2 * (64 << 20)
    assert clock.median(lambda: calls.append("call"), 1) == 1e-3
    assert calls == ["call"] * torch_gpu.WARM_UP + ["flush", "_sleep", "record 0", "call", "record 1", "synchronize"]


def test_host_is_one_step_ahead(torch_gpu, calls):
    args = SimpleNamespace(device="cuda", runs=1)
    seconds = torch_gpu.step_seconds(lambda: calls.append("step"), args, float("inf"))
    assert len(seconds) == 1
    assert calls[:6] == ["step", "record 0", "step", "record 1", "wait 0", "step"]
    assert calls.count("step") == torch_gpu.WARM_UP + 2 and calls[-2:] == ["wait 1", "synchronize"]


def test_everything_on_a_gpu(torch_gpu, calls, folder):
    torch_gpu.main()
    assert set(measured(folder)) == {"step-1", "step-2", "speed-1"}
    assert measured(folder)["step-2"]["peak_bytes"] == 70
    # The memory of what was measured before is given back before each model in each layout.
    assert calls.count("empty_cache") == 4 and calls[0] == "empty_cache"
