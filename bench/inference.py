#!/usr/bin/env python3
"""Compares inference at full size with diffusers (eager, fp32) on a CPU: `cocogold segment` with Stable Diffusion 2 as
a whole process, and one forward pass of its UNet.

    .venv/bin/python bench/inference.py                   makes random weights (5 GB) once, then measures
    .venv/bin/python bench/inference.py --parts unet --turns 5 --model DIR

Both sides read the same model directory and the same picture and do the same work, from the start of the process to
its end: read the weights, embed the text, encode the picture, N steps of DDIM from the same noise, decode the answer,
compare it with the picture, write mask and prediction. They alternate (A B A B ...), one process at a time. PyTorch
gets the memory format (NCHW or channels_last) that is faster in the first turn, which does not count. Medians of wall
time and of peak resident memory (mapped files included) are shown.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
FORMATS = ["nchw", "channels_last"]
TEXT = "elephant"


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=str(Path(tempfile.gettempdir()) / "cocogold-sd2"), help="made if missing")
    p.add_argument("--parts", default="segment,unet")
    p.add_argument("--turns", type=int, default=3)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--side", type=int, default=512, help="pixels")
    p.add_argument("--program", default=str(ROOT / "cocogold"))
    p.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    p.add_argument("--worker", help=argparse.SUPPRESS)  # PyTorch's side: PART FORMAT FOLDER
    return p.parse_args()


# ---- PyTorch's side --------------------------------------------------------------------------------------------------


def torch_segment(o, memory_format, folder):
    import numpy
    import torch
    from diffusers import DDIMScheduler, DiffusionPipeline
    from PIL import Image

    torch.set_num_threads(o.threads)
    pipe = DiffusionPipeline.from_pretrained(o.model)
    pipe.unet.to(memory_format=memory_format)
    pipe.vae.to(memory_format=memory_format)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(o.steps)
    picture = torch.tensor(numpy.array(Image.open(folder / "picture.png").convert("RGB")))
    picture = picture.permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        ids = pipe.tokenizer(TEXT, padding="max_length", truncation=True, return_tensors="pt").input_ids
        context = pipe.text_encoder(ids).last_hidden_state
        scale = pipe.vae.config.scaling_factor
        latent = pipe.vae.encode(picture.contiguous(memory_format=memory_format)).latent_dist.mean * scale
        x = torch.tensor(numpy.fromfile(folder / "noise.bin", numpy.float32)).reshape(latent.shape)
        for t in scheduler.timesteps:
            both = torch.cat([latent, x], 1).contiguous(memory_format=memory_format)
            x = scheduler.step(pipe.unet(both, t, context).sample, t, x).prev_sample
        drawn = (pipe.vae.decode(x / scale).sample[0] / 2 + 0.5).clamp(0, 1)
    seen = picture[0] / 2 + 0.5
    to_paint, to_picture = (drawn - 1).abs().amax(0), (drawn - seen).abs().amax(0)
    mask = (to_paint <= 0.4) & (to_picture >= 0.05) & (to_paint < to_picture)
    pool = lambda values: torch.nn.functional.max_pool2d(values, 3, stride=1, padding=1)  # noqa: E731
    mask = pool(-pool(-mask[None, None].float()))[0, 0] > 0
    Image.fromarray((mask.numpy() * 255).astype("uint8")).save(folder / "theirs-mask.png")
    Image.fromarray((drawn.permute(1, 2, 0).numpy() * 255).round().astype("uint8")).save(folder / "theirs-prediction.png")


def torch_unet(o, memory_format, folder):
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(o.threads)
    x = load_file(folder / "unet.safetensors")
    unet = UNet2DConditionModel.from_pretrained(o.model, subfolder="unet").to(memory_format=memory_format)
    with torch.no_grad():
        sample = x["sample"].contiguous(memory_format=memory_format)
        out = unet(sample, x["timestep"], x["encoder_hidden_states"]).sample
    save_file({"sample": out.contiguous()}, folder / "theirs.safetensors")


def worker(o):
    import torch

    part, name, folder = o.worker.split(" ", 2)
    memory_format = torch.channels_last if name == "channels_last" else torch.contiguous_format
    {"segment": torch_segment, "unet": torch_unet}[part](o, memory_format, Path(folder))


# ---- Measuring -------------------------------------------------------------------------------------------------------


def measured(command, threads):
    """Wall seconds and peak resident bytes of a process."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)}: {said.read().decode()}")
    return seconds, usage.ru_maxrss * 1024


def our_command(o, part, folder):
    if part == "unet":
        return [o.program, "probe", "unet", "--model", o.model, "--in", f"{folder}/unet.safetensors", "--out",
                f"{folder}/ours.safetensors"]  # fmt: skip
    return [o.program, "segment", "--model", o.model, "--image", f"{folder}/picture.png", "--text", TEXT, "--steps",
            str(o.steps), "--resolution", str(o.side), "--tolerance", "0.4", "--changed", "0.05", "--dump-noise",
            f"{folder}/noise.bin", "--out", f"{folder}/ours"]  # fmt: skip


def their_command(o, part, name, folder):
    own = ["--model", o.model, "--steps", str(o.steps), "--threads", str(o.threads)]
    return [sys.executable, __file__, *own, "--worker", f"{part} {name} {folder}"]


def make_inputs(o, folder):
    import numpy
    from PIL import Image
    from safetensors.numpy import save_file

    if not Path(o.model, "model_index.json").exists():
        subprocess.run([o.program, "init", "--preset", "sd2", o.model], check=True)
    rng = numpy.random.default_rng(1)
    coarse = (rng.random((8, 8, 3)) * 255).astype("uint8")
    Image.fromarray(coarse).resize((o.side, o.side), Image.BICUBIC).save(folder / "picture.png")
    cells = o.side // 8
    save_file({"sample": rng.standard_normal((1, 8, cells, cells), numpy.float32), "timestep": numpy.array([500]),
               "encoder_hidden_states": rng.standard_normal((1, 77, 1024), numpy.float32)},
              folder / "unet.safetensors")  # fmt: skip


def difference(part, folder):
    """How far the two results are apart, in words."""
    import numpy
    from PIL import Image
    from safetensors.numpy import load_file

    if part == "unet":
        ours, theirs = (load_file(folder / f"{who}.safetensors")["sample"] for who in ("ours", "theirs"))
        return f"relative error {numpy.linalg.norm(ours - theirs) / numpy.linalg.norm(theirs):.1e}"
    read = lambda who, what: numpy.array(Image.open(folder / f"{who}-{what}.png")).astype(int)  # noqa: E731
    worst = numpy.abs(read("ours", "prediction") - read("theirs", "prediction")).max()
    masks = [read(who, "mask") > 0 for who in ("ours", "theirs")]
    return f"predictions differ by at most {worst}/255, masks in {(masks[0] != masks[1]).sum()} of {masks[0].size} pixels"


def compare(o, part, folder):
    ours, theirs = [], []
    first = {"cocogold": measured(our_command(o, part, folder), o.threads)[0]}
    for name in FORMATS:
        first[name] = measured(their_command(o, part, name, folder), o.threads)[0]
    best = min(FORMATS, key=first.get)
    print(f"{part}: first turn, not counted: " + ", ".join(f"{k} {v:.1f} s" for k, v in first.items()), flush=True)
    for turn in range(o.turns):
        ours.append(measured(our_command(o, part, folder), o.threads))
        theirs.append(measured(their_command(o, part, best, folder), o.threads))
        print(f"{part}: turn {turn + 1}: cocogold {ours[-1][0]:.1f} s, diffusers ({best}) {theirs[-1][0]:.1f} s, ratio "
              f"{theirs[-1][0] / ours[-1][0]:.2f}", flush=True)  # fmt: skip
    (a, ma), (b, mb) = ([statistics.median(v) for v in zip(*side)] for side in (ours, theirs))
    ratio = statistics.median(t[0] / u[0] for u, t in zip(ours, theirs))
    print(f"{part}: {difference(part, folder)}")
    return f"| {part} | {a:.1f} s, {ma / 2**30:.2f} GiB | {b:.1f} s, {mb / 2**30:.2f} GiB | {ratio:.2f} times, {ma / mb:.0%} |"


def main():
    o = parse_arguments()
    if o.worker:
        worker(o)
        return
    with tempfile.TemporaryDirectory(prefix="cocogold-inference-") as name:
        folder = Path(name)
        make_inputs(o, folder)
        rows = [compare(o, part, folder) for part in o.parts.split(",")]
    print(f"\n{o.threads} threads, {o.side} pixels, {o.steps} steps; load {os.getloadavg()[0]:.1f} at the end\n")
    print("| | cocogold | diffusers | as fast, of the memory |\n|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
