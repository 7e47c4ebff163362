"""The tokenizer against transformers' CLIPTokenizer, id for id, with CLIP's own vocabulary and with ours."""

import gzip
import importlib.util
import json
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "elephant",
    "traffic light",
    "A Photo Of The RED   Circle\tand\n a green_square!!",
    "it's they're I've I'm we'll he'd 'S 'LL o'clock don't",
    "3 dogs, 42 cats and 1234567890 ½ ² Ⅷ ٣",
    "!!! hello!world ?!?",
    "(dog) [cat] {bird} <horse> |cow| ~ ` @ # $ % ^ & * _ + = - \\ / : ; \" ' , .",
    "<|startoftext|> a dog <|endoftext|>",
    "<|endoftext|><|endoftext|>x<|startoftext|>",
    "<|STARTOFTEXT|>!!! <|EndOfText|>?",
    "!<|startoftext|>! x<|endoftext|>y <|startoftext| <|start",
    "café cafe\u0301 Ångström Å A\u030a",
    "İstanbul ISTANBUL ıI ẞß ΣΑΣ ς ŐŰ Ǆǅǆ ﬁ Ⅷ",
    "naïve résumé — “quotes” ‘single’ … • ™ © 5€ £3",
    "日本語のテキスト 中文字符 한국어 텍스트 한국어",
    "русский ТЕКСТ Ελληνικά עברית العربية हिन्दी ไทย",
    "🙂 👩‍👩‍👧‍👦 🇫🇷 👍🏽 ❤️ x🙂y",
    "a\u00a0b\u2003c\u3000d\u200be\u180ef\u0085g\u2028h\x0bi\x0cj\x1fk",
    "a\u0300\u0301b \u0300 \u0345 ͅ",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 300,
    "word " * 100,
    "ab" * 500 + "!",
    "snake_case camelCase kebab-case http://example.org/?a=b&c=d #tag @name",
    "\u1e9b\u0323 \ufb01 \u2126 \u212b \u0958 \u2adc",
    "don't'll've''s ' s 's's",
    "1st 2nd 3rd v2.0 0x1F 1e-5 ½½ 10km",
]


def real_vocabulary():
    """vocab.json and merges.txt as Stable Diffusion's directories have them, from the published list of merges."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("open-clip-torch, which holds CLIP's vocabulary, is not installed")
    path = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.open(path, "rt", encoding="utf-8").read().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in printable]
    alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(other))]
    vocab = alphabet + [c + "</w>" for c in alphabet] + [m.replace(" ", "") for m in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    assert len(vocab) == 49408
    return {token: i for i, token in enumerate(vocab)}, merges


def special(content, normalized):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


def write_folder(folder, pad, style):
    """style: how the special tokens are given, as different versions of transformers have written them."""
    vocab, merges = real_vocabulary()
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    begin, end = "<|startoftext|>", "<|endoftext|>"
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": end, "do_lower_case": True}
    if style == "old":  # Stable Diffusion's own: the map overrides the config's padding
        config |= {k: {"__type": "AddedToken"} | special(v, True) for k, v in
                   [("bos_token", begin), ("eos_token", end), ("unk_token", end)]}
        tokens = {"bos_token": special(begin, True), "eos_token": special(end, True), "pad_token": pad,
                  "unk_token": special(end, True)}
        (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    elif style == "decoder":  # transformers 4.34 and later
        config |= {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": pad}
        config["added_tokens_decoder"] = {
            str(vocab[t]): special(t, n) | {"special": True} for t, n in {pad: False, begin: False, end: True}.items()
        }
    elif style == "added":
        config |= {"pad_token": pad}
        (folder / "added_tokens.json").write_text(json.dumps({"<red-dog>": 49408, "<cat>": 49409}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ids_of(program, folder, texts, length=0):
    stdin = b"".join(text.encode() + b"\0" for text in texts)
    result = subprocess.run([program, "tokens", folder, str(length)], input=stdin, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return [list(map(int, line.split())) for line in result.stdout.decode().splitlines()]


def compare(program, folder, texts, length=77):
    texts = [t for t in texts if "\0" not in t]
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    expected = tokenizer(texts, padding="max_length", truncation=True, max_length=length)["input_ids"]
    found = ids_of(program, folder, texts, length)
    assert len(found) == len(texts)
    wrong = [(t, f, e) for t, f, e in zip(texts, found, expected) if f != e]
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[0]}"


def random_texts(seed, count):
    rng = random.Random(seed)
    words = " ".join(TEXTS).split(" ")
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00),
              (0x1100, 0x1200), (0x1E00, 0x2100), (0x2100, 0x2800), (0x3000, 0x3100), (0x4E00, 0x5000),
              (0xAC00, 0xAD00), (0xFB00, 0xFE10), (0x1F300, 0x1F700)]
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 12)):
            if rng.random() < 0.6:
                parts.append(rng.choice(words))
            else:
                low, high = rng.choice(blocks)
                parts.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 5))))
        yield rng.choice(["", " "]).join(parts)


# The libraries on both sides bring their own Unicode tables: what version 9 knew (2016) must be the same in all.
def assigned(text):
    return all(unicodedata.category(c) not in ("Cn", "Cs") for c in text)


@pytest.mark.parametrize("style,pad", [("old", "!"), ("old", "<|endoftext|>"), ("decoder", "!"), ("added", "!")])
def test_real_vocabulary(model_dump, tmp_path, style, pad):
    folder = write_folder(tmp_path / "tokenizer", pad, style)
    texts = TEXTS + ["a <red-dog> and <cat>s <RED-DOG>", "<cat><cat>"] + [t for t in random_texts(style, 1500) if assigned(t)]
    compare(model_dump, folder, texts)
    compare(model_dump, folder, TEXTS, 16)


def test_padding_and_begin(model_dump, tmp_path):
    folder = write_folder(tmp_path / "tokenizer", "!", "old")
    assert ids_of(model_dump, folder, ["elephant"], 6) == [[49406, 10299, 49407, 0, 0, 0]]


def test_tokenizer_json(model_dump, tmp_path):
    """Only tokenizer.json and tokenizer_config.json, as transformers 5 writes them."""
    old = CLIPTokenizer.from_pretrained(write_folder(tmp_path / "old", "!", "old"))
    old.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer.json").exists() and not (tmp_path / "new" / "vocab.json").exists()
    compare(model_dump, tmp_path / "new", TEXTS + [t for t in random_texts(5, 300) if assigned(t)])


def test_every_character(model_dump, tmp_path):
    folder = write_folder(tmp_path / "tokenizer", "<|endoftext|>", "old")
    characters = [chr(c) for c in range(1, 0x110000) if assigned(chr(c)) and unicodedata.category(chr(c)) != "Co"]
    characters = [c for c in characters if known_since_2016(c)]
    texts = [f"a{c}b {c}" for c in characters if not 0x3400 <= ord(c) <= 0x9FFF and not 0x17000 <= ord(c) <= 0x3FFFF]
    compare(model_dump, folder, texts, 24)


def known_since_2016(c):
    return unicodedata.ucd_3_2_0.category(c) != "Cn"


def test_our_vocabulary(model_dump, mini):
    tokenizer = CLIPTokenizer.from_pretrained(mini / "tokenizer")
    assert tokenizer.model_max_length == 16
    compare(model_dump, mini / "tokenizer", TEXTS + list(filter(assigned, random_texts(9, 500))), 16)
    for name in ["red circle", "person", "traffic light", "sky-other-merged", "orange cross", "hot dog"]:
        assert len(tokenizer(name)["input_ids"]) == 2 + len(name.replace("-", " - ").split())


def damage(folder, name, change):
    path = folder / name
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize(
    "name,change,says",
    [
        ("vocab.json", lambda t: t[:-2], "valid JSON"),
        ("vocab.json", lambda t: t.replace('"dog</w>"', '"god</w>"'), "not in the vocabulary"),
        ("vocab.json", lambda t: t.replace('"<|endoftext|>"', '"<|eot|>"'), "<|endoftext|>"),
        ("vocab.json", lambda t: "[]", "no object"),
        ("merges.txt", lambda t: t + "dog\n", "separated by a space"),
        ("tokenizer_config.json", lambda t: t.replace("77", "1"), "model_max_length"),
        ("tokenizer_config.json", lambda t: t.replace("CLIPTokenizer", "T5Tokenizer"), "tokenizer_class"),
        ("special_tokens_map.json", lambda t: t.replace('"lstrip": false', '"lstrip": true'), "lstrip"),
        ("special_tokens_map.json", lambda t: "{", "valid JSON"),
    ],
)
def test_damage(model_dump, tmp_path, name, change, says):
    folder = write_folder(tmp_path / "tokenizer", "!", "old")
    damage(folder, name, change)
    result = subprocess.run([model_dump, "tokens", folder, "77"], input=b"dog\0", capture_output=True)
    said = result.stderr.decode()
    assert result.returncode == 1 and said.count("\n") == 1 and said.startswith("cocogold: ")
    assert says in said and (name in said or name == "merges.txt" or "vocabulary" in said)


def test_bytes_that_are_no_text(model_dump, mini):
    result = subprocess.run([model_dump, "tokens", mini / "tokenizer", "16"], input=b"dog \xff\xfe\0", capture_output=True)
    assert result.returncode == 1 and b"UTF-8" in result.stderr
