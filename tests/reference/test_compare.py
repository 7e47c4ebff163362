"""bench/compare.py: a part of the comparison is printed, and leaves bench/RESULTS.md as it is. bench/busy.py: its shares."""

import os
import re
import subprocess
import sys

from conftest import ROOT, program

RESULTS = ROOT / "bench" / "RESULTS.md"


def test_a_part():
    before = RESULTS.read_bytes(), RESULTS.stat().st_mtime_ns
    command = [sys.executable, ROOT / "bench" / "compare.py", "--layers", "embedding", "--steps", "", "--rounds", "1",
               "--runs", "1", "--threads", "1"]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COCOGOLD": str(program())}).stdout
    assert re.search(r"1 thread; load average [0-9.]+ before the start\. .* Median times of 1 turn of each side\. \d{4}-\d\d-\d\d\.\n", said)
    assert "\n## Kernels\n" in said and "| embedding | embedding_forward |" in said
    assert said.endswith("bench/RESULTS.md stays as it was (--out writes a file).\n")
    assert (RESULTS.read_bytes(), RESULTS.stat().st_mtime_ns) == before


def test_everything_goes_to_the_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from compare import parse_arguments

    for arguments, out in (([], str(RESULTS)), (["--runs", "3"], str(RESULTS)), (["--layers", "conv2d"], None),
                           (["--steps", "mini"], None), (["--steps", "", "--out", "page.md"], "page.md")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        assert parse_arguments().out == out


def test_a_step_says_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from compare import step_table

    ours = {"parameters": 1e6, "batch": 2, "size": 16, "tokens": 16, "seconds": 0.5, "flops": 1e9, "peak": 60e6, "roofline": 0.8}
    theirs = {"seconds": 1.0, "peak": 100e6, "imported": 40e6}
    text = "\n".join(step_table("mini", {("none",): ours, ("nchw", "fused"): theirs}))
    assert "\n- cocogold: 2.00 times as fast as the fastest PyTorch, 60% of the smallest PyTorch's memory.\n" in text


def test_busy_compares_with_the_quiet_machine(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import busy

    monkeypatch.setattr(busy, "measure", lambda preset, count, args: (1.0 + count, 2.0 + 2 * count))
    for counts, shares in (("1,0", ["100%", "50%"]), ("1,3", ["-", "-"])):
        monkeypatch.setattr(sys, "argv", ["busy.py", "--steps", "mini", "--busy", counts])
        busy.main()
        rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| mini ")]
        assert [row[3] for row in rows] == [row[5] for row in rows] == shares
