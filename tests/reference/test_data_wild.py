"""Data as people have it: what pycocotools and Pillow make of it."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from pycocotools import mask as coco_mask
from test_data_masks import dump  # noqa: F401 (a fixture)

W, H = 60, 44


def rings(rng):
    """One to three random polygons; some leave the picture."""
    return [list(np.round(rng.uniform(-5, 65, 2 * rng.integers(3, 9)), int(rng.integers(0, 4)))) for _ in range(rng.integers(1, 4))]


def runs(rng):
    """An uncompressed run-length code, as of crowds."""
    counts, left = [], W * H
    while left:
        counts.append(int(min(left, rng.integers(1, 200))))
        left -= counts[-1]
    return {"size": [H, W], "counts": counts}


def reference(segmentation):
    r = coco_mask.frPyObjects(segmentation, H, W)
    return coco_mask.merge(r) if isinstance(segmentation, list) else r


@pytest.mark.parametrize("fields", [{}, {"area": 0, "bbox": [0, 0, 0, 0]}, {"area": None, "bbox": None}, {"area": 1e9, "bbox": [1, 1, 1e6, 1e6]}])
def test_area_and_box(dump, tmp_path, fields):  # noqa: F811
    """Missing and wrong ones are pycocotools' area and toBbox."""
    rng = np.random.default_rng(3)
    segmentations = [rings(rng) if i % 3 else runs(rng) for i in range(60)]
    annotations = [{"id": i, "image_id": 1, "category_id": 1, "segmentation": s, **fields} for i, s in enumerate(segmentations)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.png", "width": W, "height": H}],
                                "categories": [{"id": 1, "name": "a"}], "annotations": annotations}))
    lines = subprocess.run([dump, "shapes", path], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == len(segmentations)
    for line in lines:
        ident, area, *box = line.split()
        r = reference(segmentations[int(ident)])
        if coco_mask.area(r):
            assert float(area) == coco_mask.area(r)
            assert list(map(float, box)) == list(coco_mask.toBbox(r))


@pytest.mark.parametrize("kind", ["png", "profile", "packed", "itxt", "jpg", "webcam", "xmp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(dump, tmp_path, orientation, kind):  # noqa: F811
    """image_upright is ImageOps.exif_transpose: of PNG exactly; JPEG decoders differ a little."""
    rng = np.random.default_rng(orientation)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8)).resize((80, 50), Image.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "webcam":  # other tags before it, little-endian
        exif[0x010F], exif[0x0110] = "maker", "model"
    is_png = kind in ("png", "profile", "packed", "itxt")
    name = tmp_path / f"in.{'png' if is_png else 'jpg'}"
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    options = {} if is_png else {"quality": 95, "subsampling": 0}
    if kind in ("profile", "packed"):  # as ImageMagick stores EXIF
        digits = exif.tobytes().hex()
        lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
        options["pnginfo"] = PngImagePlugin.PngInfo()
        text = "\n".join(["", "exif", f"{len(digits) // 2:8}", *lines, ""])
        options["pnginfo"].add_text("Raw profile type exif", text, zip=kind == "packed")
    if kind == "itxt":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp, zip=orientation % 2 == 1)
    if kind in ("png", "jpg", "webcam") or orientation % 2 == 0:  # EXIF comes before ImageMagick's text, also without
        options["exif"] = (exif if kind in ("png", "jpg", "webcam") else Image.Exif()).tobytes()
    coarse.save(name, **options)
    if kind == "xmp":
        body = b"http://ns.adobe.com/xap/1.0/\x00" + xmp.encode()
        data = name.read_bytes()
        name.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:])
    subprocess.run([dump, "upright", name, tmp_path / "out.png"], check=True)
    ours = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(name))).astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= (0 if is_png else 8)
