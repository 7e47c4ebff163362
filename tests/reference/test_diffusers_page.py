"""docs/DIFFUSERS.md: its commands and its Python lines, run one after the other on mini models."""
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from evaluation import cocogold, data, model, run_page  # noqa: F401


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
    page = run_page("DIFFUSERS.md", tmp_path, 7)
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
