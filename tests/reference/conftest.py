"""Paths and helpers of the reference tests: the program, the real vocabulary, comparisons."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def program():
    """The program under test: $COCOGOLD, or the repository's link to the best build."""
    path = Path(os.environ.get("COCOGOLD", ROOT / "cocogold")).resolve()
    if not path.exists():
        pytest.fail(f"{path} does not exist: run make first")
    return path


def run_cocogold(*arguments, fails=False, timeout=1200):
    """Runs a command; returns its stdout, or with `fails` the one sentence it must die with."""
    result = subprocess.run(
        [program(), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    if not fails:
        assert result.returncode == 0, f"{arguments}: {result.stderr}"
        return result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("cocogold: ")]
    assert result.returncode == 1 and len(lines) == 1, f"{arguments}: exit code {result.returncode}: {result.stderr}"
    return lines[0]


def relative_error(value, reference, floor=0.0):
    """||value - reference|| / max(||reference||, floor), in double; fails on NaN."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, f"{value.shape} is not {reference.shape}"
    assert np.isfinite(value).all()
    norm = max(np.linalg.norm(reference), floor)
    error = np.linalg.norm(value - reference)
    return error / norm if norm > 0 else error


@pytest.fixture(scope="session")
def model_dump():
    """tests/model/dump: token ids, schedules."""
    path = "build/cpu-fp32/tests/model/dump"
    subprocess.run(["make", "-s", "BACKEND=cpu", "PRECISION=fp32", path], cwd=ROOT, check=True, capture_output=True)
    return ROOT / path


@pytest.fixture(scope="session")
def cocogold():
    return run_cocogold


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """A pipeline directory that `init --preset mini` wrote."""
    folder = tmp_path_factory.mktemp("init") / "mini"
    run_cocogold("init", "--preset", "mini", folder)
    return folder
