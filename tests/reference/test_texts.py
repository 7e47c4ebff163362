"""What synth says about its scenes against a slow reading of instances_*.json; texts of shards with h5py."""

import json
import shutil
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
from pycocotools.coco import COCO

from conftest import run_cocogold

COLORS = "red green blue yellow purple orange".split()
SHAPES = "circle square triangle cross".split()
PLURALS = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross", "people": "person"}
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
MARGIN, RATIO = 64 / 8, 1.2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synth") / "scenes"
    run_cocogold("synth", folder, "--train", 120, "--val", 120, "--seed", 5, "--new-words", "orange,cross")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "init"
    run_cocogold("init", "--preset", "mini", folder, "--seed", 2)
    return folder


class Scene:
    """The objects of a picture as dictionaries: id, words of the name, centre, area."""

    def __init__(self, coco, image_id):
        self.objects = []
        for a in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
            words = coco.loadCats([a["category_id"]])[0]["name"].split()
            x, y, w, h = a["bbox"]
            assert coco.annToMask(a).sum() == a["area"]
            self.objects.append({"id": a["id"], "words": words, "centre": (x + w / 2, y + h / 2), "area": a["area"]})

    def called(self, noun):
        """The objects that a noun such as "red circle", "circle" or "person" fits."""
        return [o for o in self.objects if o["words"][-len(noun.split()):] == noun.split()]

    def colored(self, color):
        return [o for o in self.objects if o["words"][0] == color]

    def read(self, phrase):
        """(kind, ids) of a phrase, or None where it is ambiguous."""
        words = phrase.split()
        for side, (axis, sign) in SIDES.items():
            if f" {side} the " not in phrase:
                continue
            noun, anchor = phrase.removeprefix("the ").split(f" {side} the ")
            (b,) = self.called(anchor)
            away = [sign * (a["centre"][axis] - b["centre"][axis]) for a in self.called(noun)]
            if any(abs(d) < MARGIN for d in away):
                return None
            found = [a["id"] for a, d in zip(self.called(noun), away) if d > 0]
            return None if len(found) > 1 else ("relation", found)
        if words[0] == "all":
            found = self.colored(words[1]) if words[-1] == "shapes" else self.called(PLURALS[words[1]])
            return None if len(found) == 1 else ("plural", [o["id"] for o in found])
        if words[1] in ("largest", "smallest"):
            found = sorted(self.called(words[2]), key=lambda o: o["area"], reverse=words[1] == "largest")
            if not found:
                return "size", []
            first, second = found[0]["area"], found[1]["area"]  # one of a kind is not the largest
            return ("size", [found[0]["id"]]) if max(first, second) / min(first, second) >= RATIO else None
        found = self.colored(words[1]) if words[-1] == "one" else self.called(" ".join(words[1:]))
        attribute = words[-1] == "one" or (len(words) == 2 and words[1] != "person")
        return None if len(found) > 1 else ("attribute" if attribute else "name", [o["id"] for o in found])

    def all_phrases(self):
        """Every phrase of the language that refers to something here."""
        nouns = SHAPES + ["person"]
        names = [f"{c} {s}" for c, s in product(COLORS, SHAPES)] + ["person"]
        texts = [f"the {n}" for n in names + SHAPES] + [f"the {c} one" for c in COLORS]
        texts += [f"the {w} {n}" for w in ("largest", "smallest") for n in nouns if len(self.called(n)) > 1]
        texts += [f"all {p}" for p in PLURALS] + [f"all {c} shapes" for c in COLORS]
        for anchor in names:
            if len(self.called(anchor)) != 1:
                continue
            for noun in names + [s for s in SHAPES if len(self.called(s)) > 1 and s not in anchor.split()]:
                if noun != anchor and self.called(noun):
                    texts += [f"the {noun} {side} the {anchor}" for side in SIDES]
        return {(t, *[r[0]], tuple(sorted(r[1]))) for t in texts if (r := self.read(t)) and r[1]}


@pytest.mark.parametrize("split", ["train", "val"])
def test_phrases_against_the_scenes(scenes, split):
    coco = COCO(scenes / f"annotations/instances_{split}.json")
    refs = json.loads((scenes / f"annotations/refs_{split}.json").read_text())["refs"]
    unseen = set((scenes / "classes/unseen.txt").read_text().split("\n")) - {""}
    counts, of_picture = {}, {}
    for entry in refs:
        of_picture.setdefault(entry["image_id"], []).append(entry)
    assert set(of_picture) == set(coco.imgs)
    for image_id, entries in of_picture.items():
        scene = Scene(coco, image_id)
        said, absent = set(), set()
        for entry in entries:
            (text,) = entry["sentences"]
            kind, ids = scene.read(text)
            assert sorted(ids) == sorted(entry["ann_id"]), text
            assert entry["kind"] == (kind if ids else "absent"), text
            counts[entry["kind"]] = counts.get(entry["kind"], 0) + 1
            if ids:
                said.add((text, kind, tuple(sorted(ids))))
            else:
                assert kind not in absent  # at most one of each kind
                absent.add(kind)
                assert split == "val" or text.removeprefix("the ") not in unseen, text
        assert said == scene.all_phrases()
        assert absent >= {"name", "attribute", "size", "plural"}
        assert len(said) + len(absent) == len(entries)
    print(split, counts)
    assert min(counts[k] for k in ("name", "attribute", "relation", "size", "plural", "absent")) >= 20


@pytest.mark.parametrize("split", ["train", "val"])
def test_captions_name_the_objects(scenes, split):
    coco = COCO(scenes / f"annotations/instances_{split}.json")
    captions = COCO(scenes / f"annotations/captions_{split}.json")  # pycocotools reads it as COCO's
    for image_id in coco.imgs:
        want = sorted(" ".join(o["words"]) for o in Scene(coco, image_id).objects)
        texts = [a["caption"] for a in captions.loadAnns(captions.getAnnIds(imgIds=[image_id]))]
        assert len(texts) == min(2, len(want))
        for text in texts:
            parts = text.replace(", and ", ", ").replace(" and ", ", ").split(", ")
            assert all(p.startswith("an o" if "orange" in p else "a ") for p in parts)
            assert sorted(p.split(" ", 1)[1] for p in parts) == want


def test_word_lists(scenes):
    lists = {n: set((scenes / f"classes/{n}.txt").read_text().split("\n")) - {""}
             for n in ("seen", "unseen", "known", "new-combinations", "new-words")}
    new = {n for n in lists["seen"] | lists["unseen"] if set(n.split()) & {"orange", "cross"}}
    assert lists["new-words"] == new and len(new) == 9
    assert lists["known"] == lists["seen"] - new and lists["new-combinations"] == lists["unseen"] - new


def encode(model, scenes, out, *options):
    return run_cocogold("encode", "--model", model, "--data", scenes, "--out", out, "--min-side", 0, *options)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def test_phrases_in_shards(scenes, model, tmp_path):
    encode(model, scenes, tmp_path, "--texts", "phrases", "--passes", 2, "--targets", "mask", "--shard-size", 50)
    coco = COCO(scenes / "annotations/instances_train.json")
    summary = json.loads((tmp_path / "train.json").read_text())
    names, drawn, kinds = set(), {}, {}
    for path in sorted(tmp_path.glob("train-*.h5")):
        with h5py.File(path) as f:
            texts = [text(t) for t in f["texts"][...]]
            assert len(set(texts)) == len(texts) and f["texts"].fletcher32 and f["text"].dtype == np.int32
            assert f["texts"].dtype.itemsize == max(len(t.encode()) for t in texts)
            assert sorted(set(f["text"][...])) == list(range(len(texts)))  # all are used
            assert text(f.attrs["text_source"]) == "phrases" and len(text(f.attrs["texts_sha256"])) == 64
            assert f["kind"].dtype == np.uint8
            names |= set(texts)
            for i, image_id in enumerate(f["image_id"][...]):
                scene, phrase = Scene(coco, int(image_id)), texts[f["text"][i]]
                kind, ids = scene.read(phrase)
                assert text(f.attrs["kinds"][f["kind"][i]]) == (kind if ids else "absent")
                kinds[kind if ids else "absent"] = kinds.get(kind if ids else "absent", 0) + 1
                masks = [coco.annToMask(a) for a in coco.loadAnns(ids)]
                want = np.any(masks, axis=0) if masks else np.zeros((64, 64), bool)
                assert np.array_equal(np.unpackbits(f["mask"][i], axis=1)[:, :64], want)
                classes = {a["category_id"] - 1 for a in coco.loadAnns(ids)}
                assert f["class"][i] == (classes.pop() if len(classes) == 1 else -1)
                drawn.setdefault(int(image_id), []).append(phrase)
    assert summary["texts"] == len(names) and summary["samples_of_kind"] == kinds
    assert sum(kinds.values()) == 240 and min(kinds.values()) > 12
    assert sum(len(set(d)) > 1 for d in drawn.values()) > 60  # another phrase in the other pass


def test_captions_in_shards(scenes, model, tmp_path):
    encode(model, scenes, tmp_path, "--texts", "captions", "--passes", 3, "--split", "val")
    captions = COCO(scenes / "annotations/captions_val.json")
    used = {}
    for path in sorted(tmp_path.glob("val-*.h5")):
        with h5py.File(path) as f:
            assert "mask" not in f and "target_overlay" not in f and "target_mask" not in f and "kind" not in f
            assert text(f.attrs["targets"]) == "none" and set(f["class"][...]) == {-1}
            for i, image_id in enumerate(f["image_id"][...]):
                caption = text(f["texts"][f["text"][i]])
                assert caption in [a["caption"] for a in captions.imgToAnns[int(image_id)]]
                used.setdefault(int(image_id), set()).add(caption)
    assert len(used) == 120 and sum(len(u) == 2 for u in used.values()) > 60


@pytest.mark.parametrize("how", ["ascii", "variable", "bytes"])
def test_shards_that_h5py_wrote(scenes, model, tmp_path, how):
    """The same shard with every text as h5py writes it: the program reads it and reports the same."""
    encode(model, scenes, tmp_path / "a", "--texts", "phrases", "--targets", "mask")
    before = (tmp_path / "a/train.json").read_text()
    kinds = {"ascii": lambda v: np.array(v, dtype="S"), "bytes": lambda v: np.array(v, dtype="S80"),
             "variable": lambda v: np.array(v, dtype=object)}
    path = tmp_path / "a/train-00000.h5"
    with h5py.File(path, "r+") as f:
        for name, value in list(f.attrs.items()):
            if isinstance(value, bytes):
                f.attrs[name] = value.decode() if how == "variable" else np.bytes_(value)
            elif isinstance(value, np.ndarray) and value.dtype.kind == "S":
                names = [text(v) for v in value]
                f.attrs[name] = names if how == "variable" else kinds[how](names)
        texts = [text(t) for t in f["texts"][...]]
        del f["texts"]
        if how == "variable":
            f.create_dataset("texts", data=texts, dtype=h5py.string_dtype())
        else:
            f["texts"] = kinds[how](texts)
    encode(model, scenes, tmp_path / "a", "--texts", "phrases", "--targets", "mask")  # keeps it
    after = json.loads((tmp_path / "a/train.json").read_text())
    assert {**after, "bytes": 0} == {**json.loads(before), "bytes": 0}
    with h5py.File(path, "r+") as f:
        f["text"][3] = len(texts)
    said = encode_fails(model, scenes, tmp_path / "a")
    assert f'train-00000.h5: dataset "text" has {len(texts)} at sample 3, expected 0 to {len(texts) - 1}' in said


@pytest.mark.parametrize("libver", ["v108", "v110", "earliest"])
def test_formats_of_hdf5(scenes, model, tmp_path, libver):
    """A shard that h5py wrote anew is read in a format with checksums; the old one, h5py's default, is refused."""
    encode(model, scenes, tmp_path / "a", "--texts", "phrases", "--targets", "mask")
    before, path = (tmp_path / "a/train.json").read_text(), tmp_path / "a/train-00000.h5"
    with h5py.File(path) as old, h5py.File(tmp_path / "new.h5", "w", libver=libver) as new:
        for name in old:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    (tmp_path / "new.h5").rename(path)
    if libver == "earliest":
        said = encode_fails(model, scenes, tmp_path / "a")
        assert "train-00000.h5: is in HDF5's old format" in said and "h5repack --low=2 --high=2" in said
        return
    encode(model, scenes, tmp_path / "a", "--texts", "phrases", "--targets", "mask")  # keeps it
    after = json.loads((tmp_path / "a/train.json").read_text())
    assert {**after, "bytes": 0} == {**json.loads(before), "bytes": 0}


@pytest.mark.parametrize("options, text", [
    ({"compression": "gzip"}, "is compressed or has another filter"),
    ({"shuffle": True}, "is compressed or has another filter"),
    ({"chunks": True}, "has chunks and a fixed length"),
])
def test_shards_that_h5py_compressed(scenes, model, tmp_path, options, text):
    """What is refused names the dataset and the way to convert it."""
    encode(model, scenes, tmp_path / "a", "--texts", "phrases", "--targets", "mask")
    path = tmp_path / "a/train-00000.h5"
    with h5py.File(path) as old, h5py.File(tmp_path / "new.h5", "w", libver="v110") as new:
        for name in old:
            new.create_dataset(name, data=old[name][()], **options if name == "mask" else {})
        for name, value in old.attrs.items():
            new.attrs[name] = value
    (tmp_path / "new.h5").rename(path)
    said = encode_fails(model, scenes, tmp_path / "a")
    assert f'train-00000.h5: dataset "mask" {text}' in said and "--layout=CONTI" in said


def encode_fails(model, scenes, out):
    return run_cocogold("encode", "--model", model, "--data", scenes, "--out", out, "--min-side", 0, "--texts", "phrases",
                        "--targets", "mask", fails=True)


def test_refs_as_refcoco_writes_them(scenes, model, tmp_path):
    """A top-level list, sentences as objects, several sentences, gRefCOCO's empty targets; bad entries are left out."""
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    instances = json.loads((data / "annotations/instances_val.json").read_text())
    first = instances["images"][0]["id"]
    ids = [a["id"] for a in instances["annotations"] if a["image_id"] == first]
    other = next(a["id"] for a in instances["annotations"] if a["image_id"] != first)
    refs = [
        {"image_id": first, "ann_id": ids[0], "sentences": [{"sent": " the café\n", "raw": "x"}, {"raw": "that one"}]},
        {"image_id": first, "ann_id": ids, "sentences": ["everything"]},
        {"image_id": instances["images"][1]["id"], "ann_id": [-1], "sentences": ["nothing"]},
        {"image_id": instances["images"][2]["id"], "no_target": True, "sentences": ["no one"]},
        {"image_id": first, "ann_id": other, "sentences": ["of another picture"]},
        {"image_id": 7, "ann_id": [], "sentences": ["of no picture"]},
        {"image_id": first, "ann_id": [], "sentences": [5]},
        {"image_id": first, "sentences": ["no ids"]},
        {"image_id": first, "ann_id": [], "sentences": "not a list"},
        {"image_id": first, "ann_id": [], "sentences": [""]},
        "a text",
        {"image_id": first, "ann_id": [], "sentences": ["x" * 5000]},
    ]
    (data / "annotations/refs_val.json").write_text(json.dumps(refs, ensure_ascii=False))
    said = encode(model, data, tmp_path / "out", "--texts", "phrases", "--split", "val", "--passes", 8)
    summary = json.loads((tmp_path / "out/val.json").read_text())
    assert set(summary["samples_of_kind"]) == {"phrase", "absent"} and summary["samples"] == 24
    assert len(summary["dropped"]["no_text"]) == 8 * 117
    with h5py.File(tmp_path / "out/val-00000.h5") as f:
        assert {text(t) for t in f["texts"][...]} <= {"the café", "that one", "everything", "nothing", "no one"}
    (data / "annotations/refs_val.json").write_text("[]")
    said = run_cocogold("encode", "--model", model, "--data", data, "--out", tmp_path / "x", "--split", "val", "--texts",
                        "phrases", fails=True)
    assert "refs_val.json: none of its 0 entries can be used" in said


def test_restart_notices_other_texts(scenes, model, tmp_path):
    encode(model, scenes, tmp_path, "--texts", "captions", "--split", "val")
    said = run_cocogold("encode", "--model", model, "--data", scenes, "--out", tmp_path, "--min-side", 0, "--split", "val",
                        fails=True)
    assert 'attribute "targets"' in said
    said = run_cocogold("encode", "--model", model, "--data", scenes, "--out", tmp_path / "y", "--absent", 0.5, "--texts",
                        "phrases", fails=True)
    assert "--absent 0.5: expected with --texts names" in said
