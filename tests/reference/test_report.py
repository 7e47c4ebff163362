"""The HTML pages in a real browser: every figure is there, drawn, without errors."""
import json
import math
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from evaluation import data, evaluated, model  # noqa: F401

COCOGOLD = os.path.abspath(os.environ.get("COCOGOLD", "./cocogold"))
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

# Appended to a copy of the page: reports what the browser made of it.
PROBE = """
<script>
window.problems = [];
addEventListener('error', e => problems.push(String(e.message)));
addEventListener('load', () => {
  const out = {problems, figures: {}, images: 0, broken: 0, squashed: 0, width: document.documentElement.scrollWidth};
  for (const figure of document.querySelectorAll('figure[id]')) {
    const svg = figure.querySelector('svg'), box = (svg || figure).getBoundingClientRect();
    out.figures[figure.id] = {width: box.width, height: box.height,
        marks: svg ? svg.querySelectorAll('rect,path[stroke-width],circle').length : -1};
  }
  for (const image of document.images) { out.images++; out.broken += !(image.complete && image.naturalWidth > 0);
    out.squashed += Math.abs(image.width / image.height / (image.naturalWidth / image.naturalHeight) - 1) > 0.05; }
  const pre = document.createElement('pre');
  pre.id = 'probe';
  pre.textContent = JSON.stringify(out);
  document.body.appendChild(pre);
});
</script>
"""


def browse(page: pathlib.Path, tmp_path: pathlib.Path) -> dict:
    html = page.read_text()
    assert not re.search(r"[^a-z]nan[^a-z]", re.sub(r"base64,[^\"]*", "", html).lower()), "a number is missing"
    assert not re.search(r'(?:src|href)="(?!data:)', html), "the page needs other files"
    copy = tmp_path / "probe.html"
    copy.write_text(html.replace("<head>", "<head>" + PROBE, 1))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,900",
               f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    report = json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<"))
    assert report["problems"] == []
    assert report["broken"] == 0 and report["squashed"] == 0
    assert report["width"] <= 1100, "the page scrolls sideways"
    for name, figure in report["figures"].items():
        print(f"{name}: {figure['width']:.0f} x {figure['height']:.0f}, {figure['marks']} marks")
        assert figure["width"] > 200 and figure["height"] > 40 and figure["marks"] != 0, name
    return report


def group(miou):
    short = {"miou": 0.1, "giou": 0.1, "ciou": 0.1}
    return {"pairs": 100, "classes": 10, "miou": miou, "miou_low": miou - 0.04, "miou_high": miou + 0.04, "giou": miou,
            "p50": 0.7, "p60": 0.6, "p70": 0.5, "p80": 0.3, "p90": 0.1, "empty": 0.05, "full": 0.0,
            "floors": {"all_foreground": short, "centre_box": short, "white_filter": short},
            "ceiling": {"miou": 0.8, "giou": 0.8, "ciou": 0.8}}


def make_run(folder: pathlib.Path, target: str) -> pathlib.Path:
    folder.mkdir()
    lines = [{"kind": "run", "target": target, "seed": 0}]
    for step in range(1, 501):
        lines.append({"kind": "step", "step": step, "loss": 0.1 + math.exp(-step / 80), "grad_norm": 1.0, "lr": 1e-3,
                      "samples_per_s": 50, "seconds": step * 0.1})
        if step % 100 == 0:
            lines.append({"kind": "validation", "step": step, "loss": 0.1 + math.exp(-step / 90), "miou_seen": step / 800,
                          "miou_unseen": step / 900, "giou_seen": step / 800, "giou_unseen": step / 900,
                          "empty": 0.1, "full": 0.0})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    return folder


@needs_browser
def test_comparison_page(tmp_path):
    arguments = ["--out", str(tmp_path / "report.html")]
    for target, miou in (("overlay", 0.6), ("mask", 0.5)):
        run = make_run(tmp_path / target, target)
        metrics = {"seen": group(miou), "unseen": group(miou - 0.05), "all": group(miou), "harmonic": miou - 0.03,
                   "sampling_seconds_per_pair": 0.1, "config": {"target": target, "steps": 4}}
        (run / "metrics.json").write_text(json.dumps(metrics))
        arguments += ["--run", str(run), "--eval", str(run / "metrics.json")]
    subprocess.run([COCOGOLD, "report", *arguments], check=True)
    report = browse(tmp_path / "report.html", tmp_path)
    assert set(report["figures"]) == {"fig-evaluations", "fig-loss", "fig-validation", "fig-collapse"}
    html = (tmp_path / "report.html").read_text()
    assert "overlay, unseen" in html and "0.550" in html


def test_evaluations_with_one_name_are_told_apart(tmp_path):
    arguments = []
    for folder, protocol in (("first", "images"), ("second", "crops")):
        (tmp_path / folder / "run").mkdir(parents=True)
        metrics = {"seen": group(0.6), "unseen": group(0.5), "all": group(0.6), "config": {"protocol": protocol}}
        (tmp_path / folder / "run" / "metrics.json").write_text(json.dumps(metrics))
        arguments += ["--eval", f"{folder}/run/metrics.json"]
    subprocess.run([COCOGOLD, "report", *arguments], check=True, cwd=tmp_path)
    page = (tmp_path / "report.html").read_text()
    for name in "first/run/metrics.json", "second/run/metrics.json":
        assert f"<th>{name}</th>" in page
    assert "Whole pictures are scored at their own resolution" in page and "Crops are scored at the training" in page


def test_what_the_evaluations_measured(tmp_path):
    """Settings are rows of the table; those that are the default everywhere, or the same, are not."""
    rule = {"method": "compare", "tolerance": 0.4, "changed": 0.1, "opening": True}
    first = {"target": "overlay", "data": "coco, split val2017 (instances)", "protocol": "images", "start": "noise",
             "ensemble": 1, "ema": False, "extraction": rule}

    def rows(**second):
        arguments = []
        for name, config in (("a", first), ("b", first | second)):
            (tmp_path / f"{name}.json").write_text(json.dumps({"seen": group(0.6), "config": config}))
            arguments += ["--eval", f"{name}.json"]
        subprocess.run([COCOGOLD, "report", *arguments], check=True, cwd=tmp_path)
        found = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td></tr>",
                           (tmp_path / "report.html").read_text())
        return {label: values for label, *values in found}

    same = rows()
    assert same["data"] == [first["data"]] * 2
    assert same["extraction"] == ["compare, tolerance 0.4, changed by at least 0.1"] * 2
    assert not {"protocol", "start", "ensemble", "averaged weights"} & set(same)
    other = rows(data="crops of <val>, split val", protocol="crops", start="truth", ensemble=4, ema=True,
                 extraction={"method": "luminance", "tolerance": 0.5, "opening": False})
    assert other["data"][1] == "crops of &lt;val&gt;, split val"
    assert other["protocol"] == ["images", "crops"] and other["start"] == ["noise", "truth"]
    assert other["ensemble"] == ["1", "4"] and other["averaged weights"] == ["no", "yes"]
    assert other["extraction"][1] == "luminance, tolerance 0.5, no opening"
    first["ensemble"] = 4
    assert rows()["ensemble"] == ["4", "4"]
    labels = {"resolution": "resolution", "terminal_signal": "terminal signal", "absent": "share of absent classes",
              "per_class": "pairs of a class (0: all)", "limit": "pairs in all (0: all)", "seed": "seed"}
    measured = {"resolution": 64, "terminal_signal": 0.0625, "absent": 0.5, "per_class": 3, "limit": 20, "seed": 7}
    assert not set(labels.values()) & set(rows(**measured))  # an older build did not record them
    first |= measured
    assert not set(labels.values()) & set(rows())
    for field, label in labels.items():
        other = rows(**{field: 0})
        assert set(labels.values()) & set(other) == {label} and other[label] == [str(measured[field]), "0"]


def test_damaged_log_is_named(tmp_path):
    run = make_run(tmp_path / "run", "overlay")
    text = (run / "log.jsonl").read_text().splitlines(True)
    text[2] = "what\n"
    (run / "log.jsonl").write_text("".join(text))
    done = subprocess.run([COCOGOLD, "report", "--run", str(run), "--out", str(tmp_path / "r.html")],
                          capture_output=True, text=True)
    assert done.returncode == 1 and "log.jsonl: line 3" in done.stderr and not (tmp_path / "r.html").exists()


@needs_browser
def test_evaluation_page(evaluated, tmp_path):
    report = browse(evaluated / "report.html", tmp_path)
    assert {"fig-floors", "fig-classes", "fig-sizes", "fig-precision", "fig-degenerate", "fig-steps",
            "table-steps"} <= set(report["figures"])
    assert report["images"] >= 54
