#!/usr/bin/env python3
"""The kernels and training steps that check.sh has measured, in PyTorch on the same GPU.

    bench/torch_gpu.py FOLDER [--seconds 200]     reads FOLDER/speed-*.json and step-*.json; writes FOLDER/pytorch.json,
                                                  pytorch.md (one table of ratios) and pytorch-slower (a count)
    bench/torch_gpu.py --layer conv2d --function conv2d_forward --shape 2,64,64,320,320,3,1
                                                  the row of `cocogold bench conv2d --version all`: prints one line of
                                                  JSON with name and seconds, or error

Each kernel is measured as ours: one call between two events after the L2 cache has been overwritten, the median of some
runs. The GPU is kept busy until the host has queued the whole call, so that the time is the GPU's alone. PyTorch gets the
better of NCHW and channels_last, cuDNN's best of four algorithms, SDPA, and compiled norms if torch.compile works here.
Its step is a plain UNet (torch_unet.py), eager, with autocast to bf16, clipping and fused AdamW, in the better of the two
layouts; as in ours, the host is one step ahead. A ratio is our time over PyTorch's: above 1, ours is slower. --device cpu
only tries this script: such times are compared with nothing.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
import compare  # noqa: E402

try:
    import torch
    import torch.nn.functional as F
    import torch_unet
except (ImportError, OSError):  # not installed, or its libraries do not fit
    torch = None

RUNS, WARM_UP = 15, 3
WIDE = ("optimizer", "loss", "noise", "gaussian")  # layers whose tensors are fp32 in every build
LAYOUTS = ("channels_last", "NCHW")
LAB = {"adam": "optimizer", "groupnorm_backward": "groupnorm"}  # the kernel lab's names of layers
BY = {"conv2d": ": cuDNN, NCHW or channels_last", "attention": ": SDPA", "groupnorm": ": eager or compiled",
      "layernorm": ": eager or compiled", "optimizer": ": fused AdamW"}  # fmt: skip


class Clock:
    """Seconds of one call with cold caches."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)  # PyTorch 2.4 has none
            self.flush = torch.empty(2 * cache, dtype=torch.uint8)
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def once(self, call, ahead):
        """The GPU waits `ahead` seconds in which the host queues the call."""
        if not self.cuda:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        self.flush.zero_()
        torch.cuda._sleep(int(2e9 * ahead))  # clock cycles: no card is much faster than 2 GHz
        self.events[0].record()
        call()
        self.events[1].record()
        torch.cuda.synchronize()
        return 1e-3 * self.events[0].elapsed_time(self.events[1])

    def median(self, call, runs):
        for _ in range(WARM_UP):
            started = time.perf_counter()
            call()
        ahead = min(2 * (time.perf_counter() - started) + 1e-4, 1e-2)
        return statistics.median(self.once(call, ahead) for _ in range(runs))


def prepare(device):
    torch.set_default_device(device)
    torch.backends.cudnn.benchmark = True  # the warm-up finds the fastest algorithm
    torch.backends.cudnn.benchmark_limit = 4  # of ten: trying takes longer than measuring
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32, as in ours


def first_line(error):
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def compiled_functions():
    """torch.nn.functional with compiled norms, or None without a compiler."""
    try:
        config = torch._dynamo.config
        setattr(config, "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit", 200)
        if hasattr(torch._functorch.config, "donated_buffer"):
            torch._functorch.config.donated_buffer = False  # a backward pass is timed again and again on one graph
        functions = {n: torch.compile(getattr(F, n), dynamic=False) for n in ("group_norm", "layer_norm")}
        functions["layer_norm"](torch.randn(4, 8), (8,))
    except Exception as error:  # noqa: BLE001 (no compiler, no Triton, an old card)
        print(f"no torch.compile: {first_line(error)}", file=sys.stderr)
        return None
    return SimpleNamespace(**{n: functions.get(n, getattr(F, n)) for n in dir(F) if not n.startswith("__")})


def times_of(layer, shape, compiled, args, clock):
    """PyTorch's median seconds of a layer's functions, each the least of its alternatives; and what failed, or None."""
    torch.set_default_dtype(torch.float32 if args.fp32 or layer in WIDE else torch.bfloat16)
    times, failure = {}, None
    for functions in filter(None, (F, compiled if "norm" in layer else None)):
        try:
            calls = compare.TWINS[layer](torch, functions, *map(int, shape.split(",")))
            for name, alternatives in calls.items():
                found = [clock.median(call, args.runs) for call in alternatives]
                times[name] = min([*found, times.get(name, float("inf"))])
        except Exception as error:  # noqa: BLE001 (no memory, or a function that this PyTorch lacks: the others go on)
            failure = first_line(error)
            print(f"{layer} {shape}: {failure}", file=sys.stderr)
    torch.set_default_dtype(torch.float32)
    return times, failure


class Results:
    """What was measured. Each figure is written as it comes: check.sh may end this process."""

    def __init__(self, folder, device):
        self.folder, self.cuda, self.measured, self.rows = folder, device == "cuda", {}, []

    def write(self, name, text):
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.folder / name)

    def has(self, what, shape):
        """Whether another batch has this row too: an optimizer's."""
        return any((r["what"], r["shape"]) == (what, shape) for r in self.rows)

    def add(self, what, shape, ours, theirs):
        self.rows.append({"what": what, "shape": shape, "ours": ours, "torch": theirs})
        slower = sum(r["ours"] > r["torch"] for r in self.rows) if self.cuda else 0
        self.write("pytorch.json", json.dumps(self.measured, indent=1))
        self.write("pytorch.md", table(self.rows))
        self.write("pytorch-slower", f"{slower}\n")


def kernels(path, args, deadline, results):
    """PyTorch's median seconds of the rows of a file of `cocogold bench`."""
    clock, rows = Clock(args.device), json.loads(path.read_text())["kernels"]
    compiled = compiled_functions() if args.device == "cuda" else None
    done, late = {}, 0
    measured = results.measured[path.stem] = []
    for row in rows:
        key = row["layer"], row["shape"]
        if row["layer"] not in compare.TWINS or results.has(row["function"], row["shape"]):
            continue
        if time.monotonic() > deadline:
            late += 1
            continue
        if key not in done:
            done[key], _ = times_of(*key, compiled, args, clock)
        if row["function"] in done[key]:
            theirs = done[key][row["function"]]
            measured.append({**{k: row[k] for k in ("function", "shape", "seconds")}, "torch": theirs})
            results.add(row["function"], row["shape"], row["seconds"], theirs)
            print(f"{row['function']:26} {row['shape']:26} {1e6 * row['seconds']:9.1f} us  PyTorch "
                  f"{1e6 * theirs:9.1f} us  ratio {row['seconds'] / theirs:.2f}", flush=True)  # fmt: skip
    if late:
        print(f"{path.name}: {late} of {len(rows)} rows not measured in {args.seconds:g} s", flush=True)


def one(args):
    """The object for --layer: `name` and `seconds`, or `error`."""
    if torch is None:
        return {"error": "not installed"}
    if args.device == "cuda" and not torch.cuda.is_available():
        return {"error": f"{torch.__version__} sees no GPU"}
    prepare(args.device)
    layer = LAB.get(args.layer, args.layer)
    compiled = compiled_functions() if args.device == "cuda" and "norm" in layer else None
    times, failure = times_of(layer, args.shape, compiled, args, Clock(args.device))
    if args.function not in times:
        return {"error": failure or f"no {args.function}"}
    return {"name": torch.__version__ + BY.get(layer, ""), "seconds": times[args.function]}


def training_step(ours, config, layout, args):
    """A function that queues one training step with the sizes of `cocogold bench step`."""
    torch.manual_seed(0)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    unet = torch_unet.UNet(config).train().to(memory_format=memory_format)
    parameters = sum(p.numel() for p in unet.parameters())
    assert parameters == ours["parameters"], f"the two models differ: {parameters} and {ours['parameters']} parameters"
    adam = torch.optim.AdamW(unet.parameters(), lr=3e-5, weight_decay=0.01, fused=True)
    B, size, L = ours["batch"], ours["size"], config["out_channels"]
    image, target = (torch.randn(B, L, size, size).to(memory_format=memory_format) for _ in range(2))
    context = torch.randn(B, ours["tokens"], config["cross_attention_dim"])
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).pow(2).neg().add(1).cumprod(0)

    def once():
        t = torch.randint(1000, (B,))
        a, noise = alphas[t].view(B, 1, 1, 1), torch.randn_like(target)
        noisy = a.sqrt() * target + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * target
        with torch.autocast(args.device, torch.bfloat16, enabled=not args.fp32):
            pred = unet(torch.cat((image, noisy), 1), t, context)
        F.mse_loss(pred.float(), velocity).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return once


def step_seconds(once, args, deadline):
    """Seconds from one step's end to the next one's, after a warm-up; the host is one step ahead of a GPU. Fewer than
    args.runs if the deadline comes first."""
    cuda, seconds, before = args.device == "cuda", [], time.perf_counter()
    ended = [torch.cuda.Event() for _ in range(2)] if cuda else []
    for i in range(WARM_UP + args.runs + cuda):
        if time.monotonic() >= deadline:
            break
        once()
        if cuda:
            ended[i % 2].record()
            if i == 0:
                continue
            ended[(i - 1) % 2].synchronize()
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    if cuda:
        torch.cuda.synchronize()
    return seconds[WARM_UP:]


def memory_taken():
    """What this process and others have of the card's memory, in bytes, as `cocogold bench step` counts it: PyTorch keeps
    what it has allocated, so that this is the peak."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def step(ours, config, args, deadline):
    """Median seconds of PyTorch's training step in its better layout, and its peak memory on the card. None: not one step
    was measured before the deadline."""
    best, failure = None, None
    for layout in LAYOUTS:
        if args.device == "cuda":
            gc.collect()  # what was measured before, so that only this step's memory is taken
            torch.cuda.empty_cache()
        try:
            seconds = step_seconds(training_step(ours, config, layout, args), args, deadline)
        except RuntimeError as error:  # no memory: cuDNN and cuBLAS have no type of their own for it
            failure = first_line(error)
            print(f"step in {layout}: {failure}", file=sys.stderr)
            continue
        if seconds and (best is None or statistics.median(seconds) < best["seconds"]):
            peak = memory_taken() if args.device == "cuda" else 0
            best = {"seconds": statistics.median(seconds), "peak_bytes": peak, "layout": layout}
    if failure and not best:
        raise RuntimeError(failure)
    return best


def steps(path, args, deadline, results):
    """PyTorch's step for a file of `cocogold bench step`."""
    ours = json.loads(path.read_text())
    name = f"{ours['model']}, batch {ours['batch']}, {ours['size']}x{ours['size']}"
    try:
        config = json.loads((args.folder / "unet.json").read_text())
        theirs = step(ours, config, args, deadline) if time.monotonic() < deadline else None
    except RuntimeError as error:
        print(f"{path.name}: {first_line(error)}")
        return
    if theirs is None:
        print(f"step of {name}: not measured in {args.seconds:g} s", flush=True)
        return
    results.measured[path.stem] = theirs
    how = f"PyTorch eager, {theirs['layout']}"
    results.add(f"training step ({how})", name, ours["seconds"], theirs["seconds"])
    print(f"step of {name}: {1e3 * ours['seconds']:.1f} ms, {how} {1e3 * theirs['seconds']:.1f} ms", flush=True)


def table(results):
    lines = ["## Beside PyTorch", "", f"PyTorch {torch.__version__}; ratio: our time over PyTorch's.", "",
             "| what | shape | us | PyTorch us | ratio |", "|---|---|---|---|---|"]  # fmt: skip
    for r in results:
        lines.append(f"| {r['what']} | {r['shape']} | {1e6 * r['ours']:.1f} | {1e6 * r['torch']:.1f} | "
                     f"{r['ours'] / r['torch']:.2f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, nargs="?")
    p.add_argument("--layer", help="measure one function of this layer, as the kernel lab calls it")
    p.add_argument("--function", help="its name in kernels.h")
    p.add_argument("--shape", help="its sizes, as for `cocogold bench`")
    p.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    p.add_argument("--fp32", action="store_true", help="no bf16")
    p.add_argument("--runs", type=int, default=RUNS)
    p.add_argument("--seconds", type=float, default=200, help="measure nothing new after this time")
    args = p.parse_args()
    if args.layer:
        print(json.dumps(one(args)))
        return
    if not args.folder or torch is None:
        sys.exit(f"torch_gpu.py: {'expected a folder' if torch else 'python3 cannot import torch'}")
    deadline = time.monotonic() + args.seconds
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch_gpu.py: PyTorch sees no GPU")
    prepare(args.device)
    results = Results(args.folder, args.device)
    files = [*args.folder.glob("step-*.json"), *args.folder.glob("speed-*.json")]
    for path in sorted(files, key=lambda path: (path.name.startswith("speed"), len(path.name), path.name)):
        compare.require_same_device(json.loads(path.read_text())["device"], args.device)
        measure = kernels if path.name.startswith("speed") else steps
        measure(path, args, deadline, results)
    if not files:
        sys.exit("torch_gpu.py: nothing to compare: run check.sh's parts speed and step first")
    if not results.rows:
        late = f" in {args.seconds:g} s" if time.monotonic() > deadline else ""
        sys.exit(f"torch_gpu.py: nothing was measured{late}")


if __name__ == "__main__":
    main()
