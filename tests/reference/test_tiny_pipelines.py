"""The pipelines that diffusers' users test with: heads of 1 to 16 channels, few groups, a vocabulary of 1000 tokens, any
scheduler. Written whole by diffusers and transformers, made ours by `init --from`, and compared from text and picture to
the predicted picture."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from evaluation import diffusers_prediction
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

VOCABULARY = 1000
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
# Channels, groups of the norms, UNet heads and blocks, text encoder heads and dropout, ..., scheduler.
PIPELINES = {
    # hf-internal-testing/tiny-stable-diffusion-pipe: heads of 8 in UNet and text encoder, as Stable Diffusion 1
    "tiny-sd1": dict(channels=(32, 64), groups=32, heads=8, text_heads=4, scheduler=PNDMScheduler(skip_prk_steps=True, **BETAS)),
    # as Stable Diffusion 2: heads of 16
    "tiny-sd2": dict(
        channels=(32, 64), groups=32, heads=(2, 4), text_heads=4, act="gelu", linear=True, dropout=0.1,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction", **BETAS),
    ),
    # the components of diffusers' own unit tests: heads of 1 and, in the text encoder, 4; the VAE's one head has 8
    "components": dict(channels=(4, 8), groups=2, heads=8, text_heads=8, layers=1, scheduler=EulerDiscreteScheduler(**BETAS)),
    # attention at both levels, heads of 4 and 5, and of 2 in the text encoder; a scheduler with "-Infinity" in its file
    "odd": dict(
        channels=(12, 20), groups=4, heads=(3, 4), text_heads=16, everywhere=True,
        scheduler=DPMSolverMultistepScheduler(**BETAS),
    ),
}  # fmt: skip


def tokenizer(folder):
    """All bytes, alone and at the end of a word, and merges of two letters up to the vocabulary's size."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges = [(a, b) for a in letters for b in letters][: VOCABULARY - 2 - 2 * len(alphabet)]
    tokens = alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == VOCABULARY
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def pipeline(folder, channels, groups, heads, text_heads, scheduler, layers=2, linear=False, act="quick_gelu", dropout=0.0,
             everywhere=False):  # fmt: skip
    torch.manual_seed(0)
    first = "CrossAttnDownBlock2D" if everywhere else "DownBlock2D"
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, block_out_channels=channels, layers_per_block=layers,
        down_block_types=(first, "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", first.replace("Down", "Up")),
        norm_num_groups=groups, attention_head_dim=heads, cross_attention_dim=32, use_linear_projection=linear,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=channels, down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=groups,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    )  # fmt: skip
    text_encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=37, num_hidden_layers=5, hidden_act=act,
                       num_attention_heads=text_heads, attention_dropout=dropout, bos_token_id=0, eos_token_id=2,
                       pad_token_id=1)
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer(folder.parent / "tokenizer"), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_segment(cocogold, tmp_path, name):
    pipeline(tmp_path / "source", **PIPELINES[name])
    cocogold("init", "--from", tmp_path / "source", tmp_path / "model")
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    cocogold("segment", "--model", tmp_path / "model", "--image", tmp_path / "picture.png", "--text", "a squirrel, eating",
             "--out", tmp_path / "out", "--steps", 3, "--resolution", 32, "--dump-noise", tmp_path / "noise.bin")  # fmt: skip
    noise = torch.tensor(np.fromfile(tmp_path / "noise.bin", np.float32)).reshape(1, 4, 16, 16)
    pixels = torch.tensor(picture, dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
    expected = diffusers_prediction(tmp_path / "model", pixels, "a squirrel, eating", noise, 3)[0].permute(1, 2, 0).numpy()
    found = np.array(Image.open(tmp_path / "out-prediction.png")) / 255
    difference = np.abs(found - expected).max() * 255
    print(f"{name}: {expected.mean():.2f} +- {expected.std():.2f}, differs by at most {difference:.2f}/255")
    assert expected.std() > 0.01 and difference < 0.6
