"""Fixtures of the evaluation tests: a small data set, a random mini model and its evaluation."""
import os
import pathlib
import subprocess

import pytest

COCOGOLD = os.path.abspath(os.environ.get("COCOGOLD", "./cocogold"))


def cocogold(*arguments, **kwargs):
    return subprocess.run([COCOGOLD, *map(str, arguments)], check=True, capture_output=True, text=True, **kwargs)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation") / "data"
    cocogold("synth", folder, "--size", 96, "--height", 64, "--train", 24, "--val", 16)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation") / "model"
    cocogold("init", "--preset", "mini", folder)
    return folder


@pytest.fixture(scope="session")
def evaluated(data, model, tmp_path_factory) -> pathlib.Path:
    """A random UNet draws noise: half of it is brighter than grey, which gives masks that are worth comparing."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    cocogold("eval", "--model", model, "--data", data, "--split", "val", "--out", out, "--method", "luminance",
             "--seen", "@" + str(data / "classes" / "seen.txt"), "--steps-table", "1,2", "--absent", 0.5, "--masks",
             "--no-opening", "--bootstrap", 200)
    return out
