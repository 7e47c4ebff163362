"""docs/DIFFUSERS.md: its commands and its Python lines, run one after the other on mini models."""
import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from evaluation import COCOGOLD, cocogold, data, model  # noqa: F401


def run_page(folder):
    """Runs the indented commands and the blocks of Python, in their order; returns Python's names."""
    names = {}
    text = (ROOT / "docs" / "DIFFUSERS.md").read_text()
    parts = re.findall(r"^    cocogold ([^\n]*)$|^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(parts) >= 7
    for command, code in parts:
        if command:
            subprocess.run([COCOGOLD, *shlex.split(command)], check=True, cwd=folder, capture_output=True)
        else:
            exec(code, names)
    return names


# A random model draws greys around the middle: with grey paint it has masks.
@pytest.mark.parametrize("target, template", [("overlay", "{}"), ("mask", "a photo of a {}")])
def test_the_page(data, model, tmp_path, monkeypatch, target, template):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "run" / "model")
    (tmp_path / "data").symlink_to(data)
    classes = (data / "classes" / "seen.txt").read_text().split()[:1] + ["red circle"]
    settings = {"target": target, "color": [120, 120, 120], "alpha": 0.75, "steps": 2, "resolution": 64,
                "text_template": template, "all_classes": classes}
    (tmp_path / "run" / "model" / "cocogold.json").write_text(json.dumps(settings))
    Image.open(sorted((data / "val").iterdir())[0]).convert("RGB").crop((0, 0, 64, 64)).save("picture.png")
    cocogold("encode", "--model", "run/model", "--data", "data", "--split", "val", "--out", "latents", "--min-side", 0)
    page = run_page(tmp_path)
    ours = np.array(Image.open("ours-mask.png")) > 0
    drawn = np.array(Image.open("ours-prediction.png")) / 255
    theirs = page["mask"].numpy()
    iou = (ours & theirs).sum() / (ours | theirs).sum()
    difference = np.abs(page["drawn"].permute(1, 2, 0).numpy() - drawn).max() * 255
    print(f"{target}: masks of {ours.mean():.1%} and {theirs.mean():.1%}, IoU {iou:.4f}; pictures differ by "
          f"{difference:.2f}/255; {len(page['asked'])} samples, {len(page['results'])} results")
    assert 0.05 < ours.mean() < 0.95 and iou > 0.995 and difference < 0.6
    assert page["masks"].shape == (len(page["asked"]), 64, 64) and page["painted"].shape == (1, 3, 64, 64)
    found = page["found"]
    assert page["results"] and len(found.anns) == len(page["results"])
    for entry, mine in zip(found.anns.values(), json.load(open("results.json"))):
        assert entry["area"] == mine["area"] and list(entry["bbox"]) == mine["bbox"]
