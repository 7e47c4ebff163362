#!/usr/bin/env python3
"""Compares cocogold's kernels and training steps with PyTorch (eager, fp32), on the same cores in the same minutes.

    .venv/bin/python bench/compare.py                     everything; writes bench/RESULTS.md
    .venv/bin/python bench/compare.py --layers conv2d,attention --steps ""    a part; prints its tables

The two alternate (A B A B ...), so that a busy minute slows both down. Kernels alternate layer by layer; steps run in
separate processes. PyTorch gets its better memory format (NCHW or channels_last) and its fastest optimizer. A ratio is
our time over PyTorch's: below 1, we are faster.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN_SECONDS = 0.01  # as in bench.c
OUR_VARIANTS = ["none", "products", "transformers"]  # --recompute
STEP_VARIANTS = [("nchw", "fused"), ("channels_last", "fused"), ("nchw", "default")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", default="all", help="names of `cocogold bench`, separated by commas; empty: none")
    p.add_argument("--steps", default="mini,quarter-sd2", help="presets of `cocogold bench step`; empty: none")
    p.add_argument("--rounds", type=int, default=3, help="number of turns of each side")
    p.add_argument("--runs", type=int, default=5, help="runs per turn; their median is kept")
    p.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    p.add_argument("--least", action="store_true", help="use minimum times instead of medians, for a busy machine")
    p.add_argument("--out", help="file of the tables (default: bench/RESULTS.md, or stdout for a part of the comparison)")
    p.add_argument("--worker", help=argparse.SUPPRESS)  # a JSON object: one training step of PyTorch
    args = p.parse_args()
    everything = all(getattr(args, name) == p.get_default(name) for name in ("layers", "steps"))
    args.out = args.out or (str(ROOT / "bench" / "RESULTS.md") if everything else None)
    return args


# ---- PyTorch's side of each kernel: layer -> sizes -> {function: [alternatives]} ------------------------------------


def layouts(torch, *shape):
    """The same random feature map in both memory formats, as leaves of the graph."""
    x = torch.randn(*shape)
    return [x.clone().requires_grad_(), x.to(memory_format=torch.channels_last).requires_grad_()]


def forward_backward(torch, function, inputs, dout=None):
    """Calls that run the function without a graph, and its backward alone."""

    def forward():
        with torch.no_grad():
            return function(*inputs)

    out = function(*inputs)
    dout = torch.randn_like(out) if dout is None else dout  # keeps the memory format
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    return forward, lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)


def pairs(name, calls):
    """{NAME_forward: alternatives, NAME_backward: alternatives} from [(forward, backward), ...]."""
    return {f"{name}_forward": [c[0] for c in calls], f"{name}_backward": [c[1] for c in calls]}


def linear(torch, F, N, IC, OC):
    x, w, b = (torch.randn(*s).requires_grad_() for s in ((N, IC), (OC, IC), (OC,)))
    return pairs("linear", [forward_backward(torch, F.linear, (x, w, b))])


def conv2d(torch, F, B, H, W, IC, OC, K, stride):
    weights = layouts(torch, OC, IC, K, K)
    bias = torch.randn(OC).requires_grad_()
    call = lambda x, w, b: F.conv2d(x, w, b, stride, K // 2)  # noqa: E731
    return pairs(
        "linear" if K == 1 and stride == 1 else "conv2d",  # what ours runs
        [forward_backward(torch, call, (x, w, bias)) for x, w in zip(layouts(torch, B, IC, H, W), weights)],
    )


def square(HW):
    side = int(HW**0.5)
    return (side, side) if side * side == HW else (HW, 1)


def groupnorm(torch, F, B, HW, C, G, silu):
    w, b = (torch.randn(C).requires_grad_() for _ in range(2))
    norm = lambda x, w, b: F.group_norm(x, G, w, b)  # noqa: E731
    call = (lambda x, w, b: F.silu(norm(x, w, b))) if silu else norm
    calls = [forward_backward(torch, call, (x, w, b)) for x in layouts(torch, B, C, *square(HW))]
    # What a checkpoint of PyTorch's runs again: the whole forward pass.
    return {**pairs("groupnorm", calls), "groupnorm_recompute": [c[0] for c in calls]}


def layernorm(torch, F, N, C):
    x, w, b = (torch.randn(*s).requires_grad_() for s in ((N, C), (C,), (C,)))
    return pairs("layernorm", [forward_backward(torch, lambda x, w, b: F.layer_norm(x, (C,), w, b), (x, w, b))])


def activation(torch, F, n):
    x = torch.randn(n).requires_grad_()
    calls = {"silu": F.silu, "gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}
    return {k: v for name, f in calls.items() for k, v in pairs(name, [forward_backward(torch, f, (x,))]).items()}


def geglu(torch, F, N, H):
    def call(x):
        a, gate = x.chunk(2, dim=-1)
        return a * F.gelu(gate)

    return pairs("geglu", [forward_backward(torch, call, (torch.randn(N, 2 * H).requires_grad_(),))])


def attention(torch, F, B, NH, Tq, Tk, HS, causal):
    # Products of to_q, to_k and to_v, seen as heads: as diffusers passes them to PyTorch.
    q, k, v = (torch.randn(B, T, NH * HS).requires_grad_() for T in (Tq, Tk, Tk))
    heads = lambda x: x.view(B, -1, NH, HS).transpose(1, 2)  # noqa: E731

    def call(q, k, v):
        out = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=bool(causal))
        return out.transpose(1, 2).reshape(B, Tq, NH * HS)

    return pairs("attention", [forward_backward(torch, call, (q, k, v))])


def embedding(torch, F, B, T, C, V):
    ids = torch.randint(V, (B, T))
    tokens, positions = torch.randn(V, C).requires_grad_(), torch.randn(T, C).requires_grad_()
    return pairs("embedding", [forward_backward(torch, lambda t, p: F.embedding(ids, t) + p, (tokens, positions))])


def timestep_embedding(torch, F, B, C):
    import torch_unet

    t = torch.randint(1000, (B,))
    return {"timestep_embedding_forward": [lambda: torch_unet.timestep_embedding(t, C)]}


def upsample(torch, F, B, H, W, C):
    call = lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")  # noqa: E731
    return pairs("upsample_nearest", [forward_backward(torch, call, (x,)) for x in layouts(torch, B, C, H, W)])


def concat(torch, F, N, CA, CB):
    a, b, dout = torch.randn(N, CA), torch.randn(N, CB), torch.randn(N, CA + CB)
    # Autograd's backward gives views, which their readers copy.
    split = lambda: (dout[:, :CA].contiguous(), dout[:, CA:].contiguous())  # noqa: E731
    return {"concat_forward": [lambda: torch.cat((a, b), 1)], "concat_backward": [split]}


def elementwise(torch, F, n):
    x, y = torch.randn(n), torch.randn(n)
    wide, sums = torch.randn(n, dtype=torch.float32), torch.randn(n, dtype=torch.float32)  # fp32 in every build
    return {
        "add_forward": [lambda: x + y],
        "scale_shift_forward": [lambda: (x * 0.18215).add_(0.5)],
        "add_scaled": [lambda: sums.add_(wide, alpha=0.1)],
        "cast_to_floatX": [lambda: wide.to(x.dtype, copy=True)],
        "cast_to_float": [lambda: x.to(torch.float32, copy=True)],
    }


def gaussian(torch, F, B, HW, L):
    moments, noise = torch.randn(B, HW, 2 * L).requires_grad_(), torch.randn(B, HW, L)
    dz = torch.randn(B, HW, L)

    def sample(moments):
        mean, logvar = moments.chunk(2, -1)
        return mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * noise

    def divergence(moments):
        mean, logvar = moments.chunk(2, -1)
        logvar = logvar.clamp(-30, 20)
        return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((1, 2))

    def no_grad(f):
        with torch.no_grad():
            return f(moments)

    z, kl = sample(moments), divergence(moments)
    weights = torch.full((B,), 1e-6)
    return {
        "gaussian_forward": [lambda: no_grad(sample)],
        "gaussian_backward": [lambda: torch.autograd.grad((z, kl), moments, (dz, weights), retain_graph=True)],
        "gaussian_kl": [lambda: no_grad(divergence)],
    }


def multires(torch, F, noise, timesteps):
    """Marigold's annealed multi-resolution noise: ratios and scaling per batch."""
    B, C, h, w = noise.shape
    strength = (0.9 * timesteps / 1000).view(B, 1, 1, 1)
    out = noise.clone()
    for i in range(1, 10):
        r = float(torch.rand(())) * 2 + 2
        h, w = max(1, int(h / r**i)), max(1, int(w / r**i))
        out += strength**i * F.interpolate(torch.randn(B, C, h, w), size=noise.shape[2:], mode="bilinear")
        if h == 1 or w == 1:
            break
    return out / out.std()


def noise(torch, F, B, H, W, C):
    eps, x0, x, pred = (torch.randn(B, C, H, W) for _ in range(4))
    t = torch.randint(1000, (B,))
    alphas = torch.linspace(0.999, 0, 1000)

    def roots():
        a = alphas[t].view(B, 1, 1, 1)
        return a.sqrt(), (1 - a).sqrt()

    def add_noise():
        a, s = roots()
        return a * x0 + s * eps, a * eps - s * x0

    def predict():
        a, s = roots()
        return a * x - s * pred

    def predict_backward():
        pred.sub_(roots()[1] * x)

    def ddim():
        original, error = 0.5**0.5 * x - 0.5**0.5 * pred, 0.5**0.5 * x + 0.5**0.5 * pred
        return 0.6**0.5 * original + 0.4**0.5 * error

    return {
        "normal_noise": [lambda: torch.randn(B, C, H, W)],
        "sample_timesteps": [lambda: torch.where(torch.rand(B) < 0.5, 999, torch.randint(1000, (B,)))],
        "multires_noise": [lambda: multires(torch, F, eps, t)],
        "add_noise_forward": [add_noise],
        "predict_x0": [predict],
        "predict_x0_backward": [predict_backward],
        "ddim_step": [ddim],
    }


def loss(torch, F, B, HW, C):
    pred, target, weight = torch.randn(B, HW, C).requires_grad_(), torch.randn(B, HW, C), torch.rand(B, HW)

    def weighted(p):
        return (weight * (p - target).pow(2).mean(-1) / weight.sum(1, keepdim=True)).sum(1).mean() * HW

    def focal(p):
        e = (p - target).pow(2).mean(-1)
        f = (1 - torch.exp(-e.detach())) ** 2
        return ((f * e).mean(1) / f.mean(1)).mean()

    calls = {
        "mse_loss": lambda p: F.mse_loss(p, target),
        "l1_mse_loss": lambda p: F.l1_loss(p, target) + F.mse_loss(p, target),
        "weighted_mse_loss": weighted,
        "focal_mse_loss": focal,
    }
    return {name: [lambda f=f: torch.autograd.grad(f(pred), pred)] for name, f in calls.items()}


def dice(torch, F, B, HW):
    pred, target, white = torch.randn(B, HW, 3).requires_grad_(), torch.randn(B, HW, 3), torch.ones(3)

    def loss():
        s, m = (1 - (x - white).abs().mean(-1) / 2 for x in (pred, target))
        value = 1 - (2 * (s * m).sum(1) + 1) / ((s * s).sum(1) + (m * m).sum(1) + 1)
        return torch.autograd.grad(value.mean(), pred)

    return {"dice_loss": [loss]}


def optimizer(torch, F, n):
    p, ema = torch.randn(n).requires_grad_(), torch.randn(n)
    p.grad = torch.randn(n)
    adam = torch.optim.AdamW([p], lr=1e-4, fused=True)
    norm = getattr(torch.nn.utils, "get_total_norm", lambda grads: torch.linalg.vector_norm(grads[0]))  # new in 2.6
    return {
        "grad_norm": [lambda: norm([p.grad])],
        "adam_update": [adam.step],
        "ema_update": [lambda: ema.lerp_(p.detach(), 0.01)],
    }


TWINS = {
    f.__name__: f
    for f in (linear, conv2d, groupnorm, layernorm, activation, geglu, attention, embedding, timestep_embedding)
    + (upsample, concat, elementwise, gaussian, noise, loss, dice, optimizer)
}


def middle(samples, args):
    return min(samples) if args.least else statistics.median(samples)


def time_call(call, args):
    """Median seconds of a call: after a warm-up, each run repeats it for some milliseconds."""
    call()
    started = time.perf_counter()
    call()
    repeats = max(1, int(RUN_SECONDS / max(time.perf_counter() - started, 1e-9)))
    samples = []
    for _ in range(args.runs):
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        samples.append((time.perf_counter() - started) / repeats)
    return middle(samples, args)


def run_cocogold(arguments, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        program = os.environ.get("COCOGOLD", str(ROOT / "cocogold"))
        subprocess.run(
            [program, "bench", *arguments, "--json", str(path)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        result = json.loads(path.read_text())
        require_same_device(result["device"], "cpu")
        return result


def require_same_device(ours, theirs):
    """Ends unless PyTorch's device is of the kind of `device` in our JSON: a GPU is never compared with a CPU."""
    if ours.startswith("CPU") != (theirs == "cpu"):
        where = "the GPU (make gpu-check)" if theirs == "cpu" else "the CPU (bench/compare.py)"
        sys.exit(f"cocogold runs on {ours}, but PyTorch would on {theirs.upper()}: expected both on {where}")


def compare_layer(layer, args):
    """One dict per function and shape: our row, with medians of the turns as `ours` and `torch`."""
    import torch
    import torch.nn.functional as F

    rows, times = {}, {}
    for _ in range(args.rounds):
        result = run_cocogold([layer, "--runs", str(args.runs)], args.threads)
        for row in result["kernels"]:
            key = row["shape"], row["function"]
            rows[key] = row
            times.setdefault(key, ([], {}))[0].append(row["least" if args.least else "seconds"])
        for shape in dict.fromkeys(row["shape"] for row in result["kernels"]):
            for function, alternatives in TWINS[layer](torch, F, *map(int, shape.split(","))).items():
                for i, call in enumerate(alternatives):
                    times[shape, function][1].setdefault(i, []).append(time_call(call, args))
    for key, row in rows.items():
        if not times[key][1]:
            sys.exit(f"{row['function']}: no PyTorch call to compare it with, expected one in {layer}() of this file")
        row["ours"] = middle(times[key][0], args)
        row["torch"] = min(middle(samples, args) for samples in times[key][1].values())
        row["roofline"] = row.get("roofline", 0) * row["seconds"] / row["ours"]
        print(f"{layer:12} {row['function']:26} {row['model']:5} {row['shape']:26} {1e6 * row['ours']:11.1f} us "
              f"PyTorch {1e6 * row['torch']:11.1f} us  ratio {row['ours'] / row['torch']:.2f}", flush=True)  # fmt: skip
    return list(rows.values())


# ---- PyTorch's side of a training step, in a process of its own ------------------------------------------------------


def peak_bytes():
    """Largest resident memory; getrusage would include the parent process's memory."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def torch_step(job):
    """v-prediction, MSE, clipping to norm 1, AdamW: what `cocogold bench step` does. Prints a JSON object."""
    import torch
    import torch.nn.functional as F
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    imported = peak_bytes()
    config = json.loads(Path(job["config"]).read_text())
    unet = UNet2DConditionModel.from_config(config).train()
    layout = torch.channels_last if job["layout"] == "channels_last" else torch.contiguous_format
    unet = unet.to(memory_format=layout)
    fused = True if job["optimizer"] == "fused" else None
    adam = torch.optim.AdamW(unet.parameters(), lr=3e-5, weight_decay=0.01, fused=fused)
    B, size = job["batch"], job["size"]
    image, target = (torch.randn(B, 4, size, size).to(memory_format=layout) for _ in range(2))
    context = torch.randn(B, job["tokens"], config["cross_attention_dim"])
    alphas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).pow(2).neg().add(1).cumprod(0)

    def step():
        t = torch.randint(1000, (B,))
        a = alphas[t].view(B, 1, 1, 1)
        noise = torch.randn_like(target)
        noisy = a.sqrt() * target + (1 - a).sqrt() * noise
        velocity = a.sqrt() * noise - (1 - a).sqrt() * target
        pred = unet(torch.cat((image, noisy), 1), t, context).sample
        F.mse_loss(pred, velocity).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    seconds = []
    for i in range(2 + job["runs"]):
        started = time.perf_counter()
        step()
        if i >= 2:
            seconds.append(time.perf_counter() - started)
        if len(seconds) >= 3 and sum(seconds) > job["limit"]:
            break
    parameters = sum(p.numel() for p in unet.parameters())
    best = min(seconds) if job["least"] else statistics.median(seconds)
    print(json.dumps({"seconds": best, "mean": statistics.mean(seconds), "peak": peak_bytes(), "imported": imported,
                      "parameters": parameters}))  # fmt: skip


def compare_step(preset, args):
    """Medians of the turns: {(recompute,): ours, ..., (layout, optimizer): PyTorch's, ...} with seconds and peak."""
    turns = {}
    with tempfile.TemporaryDirectory() as folder:
        config = str(Path(folder) / "config.json")
        for _ in range(args.rounds):
            for level in reversed(OUR_VARIANTS):
                ours = run_cocogold(["step", "--preset", preset, "--runs", str(args.runs), "--recompute", level,
                                     "--write-config", config], args.threads)  # fmt: skip
                if args.least:
                    ours["roofline"] = ours.get("roofline", 0) * ours["seconds"] / ours["least"]
                    ours["seconds"] = ours["least"]
                turns.setdefault((level,), []).append({**ours, "peak": ours["peak_bytes"]})
            for layout, adam in STEP_VARIANTS:
                job = {"config": config, "layout": layout, "optimizer": adam, "threads": args.threads,
                       "runs": args.runs, "least": args.least, "limit": float("inf"), **{k: ours[k] for k in ("batch", "size", "tokens")}}  # fmt: skip
                out = subprocess.run(
                    [sys.executable, __file__, "--worker", json.dumps(job)],
                    check=True,
                    capture_output=True,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
                ).stdout
                turns.setdefault((layout, adam), []).append(json.loads(out.splitlines()[-1]))
                assert turns[layout, adam][-1]["parameters"] == ours["parameters"], "the two models differ"
    result = {}
    for key, values in turns.items():
        r = result[key] = dict(values[-1])
        r["seconds"] = middle([v["seconds"] for v in values], args)
        r["peak"] = statistics.median(v["peak"] for v in values)
        if "roofline" in r:
            r["roofline"] *= values[-1]["seconds"] / r["seconds"]
        print(f"step {preset}: {step_name(key)}: {r['seconds']:.3f} s, {r['peak'] / 1e6:.0f} MB", flush=True)
    return result


def percent(share):
    """Share as text; "-" for 0, if the machine's peaks were not measured."""
    return f"{100 * share:.0f}%" if share else "-"


def step_name(key):
    if len(key) == 2:
        return f"PyTorch, {key[0]}, AdamW {key[1]}"
    return "cocogold" if key[0] == "none" else f"cocogold --recompute {key[0]}"


# ---- The document ----------------------------------------------------------------------------------------------------


def machine(args):
    """The hardware and versions that the figures depend on, without host names."""
    import diffusers
    import torch

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    flags = fields.get("flags", "").split()
    simd = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else platform.machine()
    return (
        f"{fields.get('model name', platform.processor())} (family {fields.get('cpu family', '?')}, model "
        f"{fields.get('model', '?')}, {simd}), {args.threads} thread{'s' if args.threads > 1 else ''}; "
        f"load average {os.getloadavg()[0]:.1f} before the start. PyTorch {torch.__version__.split('+')[0]}, diffusers "
        f"{diffusers.__version__}, eager, fp32. {'Least' if args.least else 'Median'} times of {args.rounds} "
        f"turn{'s' if args.rounds > 1 else ''} of each side. {datetime.date.today()}."
    )


def step_table(preset, result):
    ours = result["none",]
    theirs = [v for k, v in result.items() if len(k) == 2]
    fastest, smallest = min(theirs, key=lambda v: v["seconds"]), min(theirs, key=lambda v: v["peak"])
    lines = [
        f"### {preset}: {ours['parameters'] / 1e6:.1f} M parameters, batch {ours['batch']}, {ours['size']}x"
        f"{ours['size']} latents, {ours['tokens']} tokens",
        "",
        "| | s per step | samples/s | GFLOP/s | of the roofline | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for key in sorted(result, key=len):
        v = result[key]
        mine = len(key) == 1
        share = percent(v.get("roofline", 0)) if mine else ""
        note = "" if mine else f" ({v['imported'] / 1e6:.0f} MB after the imports)"
        flops = v["flops"] if mine else ours["flops"]
        lines.append(
            f"| {step_name(key)} | {v['seconds']:.3f} | {ours['batch'] / v['seconds']:.2f} | "
            f"{1e-9 * flops / v['seconds']:.1f} | {share} | {v['peak'] / 1e6:.0f} MB{note} |"
        )
    lines.append("")
    for key, v in result.items():
        if len(key) == 1:
            lines.append(
                f"- {step_name(key)}: {fastest['seconds'] / v['seconds']:.2f} times as fast as the fastest PyTorch, "
                f"{100 * v['peak'] / smallest['peak']:.0f}% of the smallest PyTorch's memory."
            )
    return lines + [""]


def kernel_table(rows):
    lines = [
        "## Kernels",
        "",
        "| layer | function | model | shape | us | PyTorch us | ratio | GFLOP/s | GB/s | of the roofline |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['layer']} | {r['function']} | {r['model']} | {r['shape']} | {1e6 * r['ours']:.1f} | "
            f"{1e6 * r['torch']:.1f} | {r['ours'] / r['torch']:.2f} | {1e-9 * r['flops'] / r['ours']:.1f} | "
            f"{1e-9 * r['bytes'] / r['ours']:.1f} | {percent(r['roofline'])} |"
        )
    slow = [r for r in rows if r["ours"] > 2 * r["torch"]]
    lines += ["", f"{len(rows)} rows; slower than half of PyTorch's speed (ratio above 2): {len(slow)}."]
    lines += [f"- {r['function']} ({r['shape']}): {r['ours'] / r['torch']:.2f}" for r in slow]
    return lines + [""]


def main():
    args = parse_arguments()
    if args.worker:
        return torch_step(json.loads(args.worker))
    import torch

    torch.set_num_threads(args.threads)
    lines = ["# cocogold beside PyTorch on a CPU", "", "Written by `bench/compare.py`; how to read it: README.md.", "",
             machine(args), ""]  # fmt: skip
    steps = [s for s in args.steps.split(",") if s]
    layers = list(TWINS) if args.layers == "all" else [s for s in args.layers.split(",") if s]
    if steps:
        lines += ["## Training steps", ""]
    for preset in steps:
        lines += step_table(preset, compare_step(preset, args))
        write(lines, args)  # an interrupted run keeps its results so far
    rows = []
    for layer in layers:
        rows += compare_layer(layer, args)
        write(lines + kernel_table(rows), args)
    if args.out:
        print(f"wrote {args.out}")
    else:
        print("\n".join(["", *lines, *(kernel_table(rows) if rows else [])]))
        print("This is a part of the comparison: bench/RESULTS.md stays as it was (--out writes a file).")


def write(lines, args):
    if args.out:
        Path(args.out).write_text("\n".join(lines))


if __name__ == "__main__":
    main()
