#!/usr/bin/env python3
"""Measures a training step on a machine that other programs use too, ours beside PyTorch's (eager, fp32).

    .venv/bin/python bench/busy.py                        both models beside 0, 1 and 2 busy processes
    .venv/bin/python bench/busy.py --steps mini --busy 0,4 --turns 5

A busy process computes all the time, in a session of its own: Linux divides the cores among sessions first. Both
programs choose their number of threads themselves, as for a user who sets nothing, unless --threads is given. They
alternate (A B A B ...). A time is the mean over the steps of a turn, stalls included; the table has the medians of the
turns. "of a quiet machine": the time beside no busy process over this time ("-": --busy has no 0). "fair": the share of
the cores that the kernel owes a program with a thread per core, among sessions of equal weight.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import ROOT, machine

RUNS = {"mini": (400, 200), "quarter-sd2": (40, 20)}  # steps of a turn: ours, PyTorch's; about ten seconds when quiet

LIMIT = 20  # seconds after which a turn of PyTorch ends, with at least 3 steps


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", default="mini,quarter-sd2", help="presets of `cocogold bench step` (default: %(default)s)")
    p.add_argument("--busy", default="0,1,2", help="numbers of busy processes (default: %(default)s)")
    p.add_argument("--turns", type=int, default=3, help="turns of each side (default: %(default)s)")
    p.add_argument("--threads", type=int, default=0, help="threads of both sides; 0: their own choice (default: 0)")
    return p.parse_args()


@contextlib.contextmanager
def busy(count):
    """So many processes that compute until the block ends."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # ends with this process, however that ends
    loops = [subprocess.Popen([sys.executable, "-c", loop], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def environment(threads):
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    return {**kept, "OMP_NUM_THREADS": str(threads)} if threads else kept


def our_step(preset, args, folder):
    """The JSON object of `cocogold bench step`; leaves the model's configuration in the folder."""
    path = Path(folder) / "step.json"
    program = os.environ.get("COCOGOLD", str(ROOT / "cocogold"))
    subprocess.run([program, "bench", "step", "--preset", preset, "--runs", str(RUNS[preset][0]), "--json", str(path),
                    "--write-config", str(Path(folder) / "config.json")],
                   check=True, stdout=subprocess.DEVNULL, env=environment(args.threads))  # fmt: skip
    return json.loads(path.read_text())


def torch_step(preset, ours, args, folder):
    """The same step in PyTorch, in a process of its own (compare.py --worker)."""
    job = {"config": str(Path(folder) / "config.json"), "layout": "nchw", "optimizer": "fused", "least": False,
           "limit": LIMIT, "threads": args.threads or len(os.sched_getaffinity(0)), "runs": RUNS[preset][1],
           **{k: ours[k] for k in ("batch", "size", "tokens")}}  # fmt: skip
    command = [sys.executable, str(ROOT / "bench" / "compare.py"), "--worker", json.dumps(job)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(args.threads)).stdout
    return json.loads(out.splitlines()[-1])


def measure(preset, count, args):
    """(ours, PyTorch's): medians over the turns of the mean seconds of a step, beside `count` busy processes."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder, busy(count):
        for _ in range(args.turns):
            result = our_step(preset, args, folder)
            ours.append(result["mean"])
            theirs.append(torch_step(preset, result, args, folder)["mean"])
    return statistics.median(ours), statistics.median(theirs)


def main():
    args = parse_arguments()
    counts = sorted(int(n) for n in args.busy.split(","))
    cores = len(os.sched_getaffinity(0))
    args_machine = argparse.Namespace(threads=args.threads or cores, least=False, rounds=args.turns)
    print(machine(args_machine), "\n")
    print("| | busy processes | ours, s | of a quiet machine | PyTorch, s | of a quiet machine | fair | times as fast |")
    print("|---|---|---|---|---|---|---|---|")
    for preset in args.steps.split(","):
        quiet = None
        for count in counts:
            ours, theirs = measure(preset, count, args)
            quiet = (ours, theirs) if count == 0 else quiet
            share = [f"{100 * q / t:.0f}%" for q, t in zip(quiet, (ours, theirs))] if quiet else ["-", "-"]
            # Sessions of equal weight, of which only ours can use more than one core.
            fair = max((cores - count) / cores, 1 / (1 + count))
            print(f"| {preset} | {count} | {ours:.3f} | {share[0]} | {theirs:.3f} | {share[1]} | "
                  f"{100 * fair:.0f}% | {theirs / ours:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
