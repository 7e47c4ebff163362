"""Whole models against diffusers and transformers through `cocogold probe`, on freshly drawn configurations: forward to
1e-5, the gradient of every parameter and input to 1e-4 of max(its norm, 1e-6 of the norm of all gradients)."""

import os
import random

import numpy as np
import pytest
import torch
from conftest import relative_error
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.numpy import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

SEED = int(os.environ.get("COCOGOLD_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
FORWARD, GRADIENT = 1e-5, 1e-4


@pytest.fixture(autouse=True)
def seeds(request):
    print(f"COCOGOLD_SEED={SEED}")
    torch.manual_seed(SEED)
    return random.Random(f"{SEED} {request.node.name}")


def randomise(model):
    """Norms away from 1 and 0, so that a forgotten scale or bias shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1 if "norm" in name and "weight" in name else 0))
    return model.double()


def key_gradients(model):
    """Adding the same vector to all keys changes no softmax: the gradients of key biases are zero, and what is left is
    the rounding of a sum of rows. Its scale is the norm of these rows: {bias: [norm]}, filled by backward."""
    rows = {}
    for name, layer in model.named_modules():
        if name.endswith(("to_k", "k_proj")) and layer.bias is not None:
            kept = rows[f"{name}.bias"] = []
            layer.register_full_backward_hook(lambda layer, dinp, dout, kept=kept: kept.append(float(dout[0].norm())))
    return rows


def compare(cocogold, tmp_path, module, model, inputs, run, output_name, differentiable):
    """Runs the module in float64 under torch and in this program, forward and backward."""
    rows = key_gradients(model)
    for name in differentiable:
        inputs[name].requires_grad_(True)
    expected = run(inputs)
    grad_output = torch.randn(expected.shape, dtype=torch.float64)
    expected.backward(grad_output)
    tensors = {k: v.detach().float().numpy() if v.is_floating_point() else v.numpy() for k, v in inputs.items()}
    save_file(tensors | {"grad_output": grad_output.float().numpy()}, tmp_path / "in.safetensors")
    arguments = ("--model", tmp_path, "--in", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors")
    cocogold("probe", module, *arguments)
    out = load_file(tmp_path / "out.safetensors")
    error = relative_error(out.pop(output_name), expected.detach())
    print(f"{module}: {output_name} {error:.1e}")
    assert error <= FORWARD

    gradients = {f"grad.{name}": inputs[name].grad for name in differentiable}
    part = module.partition(".")[2]
    for name, parameter in model.named_parameters():
        if part == "encoder" and name.startswith(("decoder", "post_quant")):
            continue
        if part == "decoder" and name.startswith(("encoder", "quant")):
            continue
        if module == "text_encoder" and not name.startswith("text_model."):
            name = f"text_model.{name}"
        gradients[f"grad.{name}"] = parameter.grad
    assert set(out) == set(gradients)
    norm = np.sqrt(sum(float(g.norm()) ** 2 for g in gradients.values()))
    floor = {name: 1e-6 * norm for name in gradients}
    for name, module_rows in rows.items():
        name = f"grad.{name}" if f"grad.{name}" in gradients else f"grad.text_model.{name}"
        if name in gradients:
            floor[name] = max(floor[name], module_rows[-1])
    worst = max((relative_error(out[name], g, floor[name]), name) for name, g in gradients.items())
    print(f"{module}: {len(gradients)} gradients, worst {worst[0]:.1e} ({worst[1]})")
    assert worst[0] <= GRADIENT

    # without grad_output the same output and nothing else
    save_file(tensors, tmp_path / "in.safetensors")
    cocogold("probe", module, *arguments)
    alone = load_file(tmp_path / "out.safetensors")
    assert list(alone) == [output_name]
    assert relative_error(alone[output_name], expected.detach()) <= FORWARD


# Tiny pipelines for tests have heads of 1 and 4, Stable Diffusion has 40, 64, 80 and 160.
HEAD_SIZES = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20]


def draw_heads(rng, size):
    """A number of heads of that size, for 8 to about 32 channels: norms of fewer take away whatever comes in."""
    least = -(-8 // size)
    return rng.randint(least, max(least, min(least + 2, 32 // size)))


def draw_unet(rng, sd2):
    levels = rng.choice([2, 3])
    size = rng.choice(HEAD_SIZES)
    if sd2:  # constant head size, linear projections
        heads = [draw_heads(rng, size) for _ in range(levels)]
        channels = [h * size for h in heads]
    else:  # constant number of heads, 1x1 convolutions
        heads = draw_heads(rng, size)
        channels = [heads * size * (i + 1) for i in range(levels)]
    # In a group of one channel the norm takes away whatever the time embedding adds: gradients that are zero.
    groups = rng.choice([g for g in (1, 2, 3, 4, 5, 8) if all(c % g == 0 and c > g for c in channels)])
    attention = [rng.random() < 0.7 for _ in range(levels)]
    return dict(
        sample_size=16,
        in_channels=rng.choice([4, 8]),
        out_channels=4,
        block_out_channels=channels,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        layers_per_block=rng.choice([1, 2]),
        attention_head_dim=heads,
        norm_num_groups=groups,
        cross_attention_dim=rng.choice([12, 20, 32]),
        use_linear_projection=sd2,
        transformer_layers_per_block=rng.choice([1, 1, 2]),
        flip_sin_to_cos=rng.random() < 0.8,
        freq_shift=rng.choice([0, 0, 1]),
        downsample_padding=rng.choice([0, 1]),
    )


@pytest.mark.parametrize("draw", range(6))
@pytest.mark.parametrize("sd2", [False, True], ids=["sd1-like", "sd2-like"])
def test_unet(cocogold, tmp_path, seeds, sd2, draw):
    config = draw_unet(seeds, sd2)
    model = UNet2DConditionModel(**config)
    model.save_pretrained(tmp_path / "unet")
    model = randomise(model)
    model.float().save_pretrained(tmp_path / "unet")
    model.double()
    B, (H, W) = seeds.choice([1, 2, 3]), seeds.choice([(8, 8), (16, 8), (9, 7), (5, 12), (6, 10)])
    print(config, B, H, W)
    # One token alone gets all attention: the queries' gradients are zero, and rounding is all that would be compared. Two
    # leave one direction, and sums of all but opposite rows.
    tokens = seeds.choice([5, 7, 16])
    inputs = {
        "sample": torch.randn(B, config["in_channels"], H, W).double(),
        "timestep": torch.tensor([seeds.randrange(1000) for _ in range(B)]),
        "encoder_hidden_states": torch.randn(B, tokens, config["cross_attention_dim"]).double(),
    }
    run = lambda x: model(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample
    compare(cocogold, tmp_path, "unet", model, inputs, run, "sample", ["sample", "encoder_hidden_states"])


def draw_vae(rng):
    groups, levels = rng.choice([1, 2, 3, 4, 5]), rng.choice([1, 2, 3])
    return dict(
        block_out_channels=[groups * rng.randint(-(-8 // groups), 24 // groups) for _ in range(levels)],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=rng.choice([1, 2]),
        norm_num_groups=groups,
        latent_channels=rng.choice([4, 6]),
        use_quant_conv=rng.random() < 0.8,
        use_post_quant_conv=rng.random() < 0.8,
        mid_block_add_attention=rng.random() < 0.8,
    )


@pytest.mark.parametrize("draw", range(6))
def test_vae(cocogold, tmp_path, seeds, draw):
    config = draw_vae(seeds)
    model = randomise(AutoencoderKL(**config))
    model.float().save_pretrained(tmp_path / "vae")
    model.double()
    B, (H, W) = seeds.choice([1, 2]), seeds.choice([(16, 16), (8, 20), (17, 13), (12, 11)])
    print(config, B, H, W)

    def moments(x):
        h = model.encoder(x["sample"])
        return model.quant_conv(h) if model.quant_conv is not None else h

    def picture(x):
        z = x["latent"]
        return model.decoder(model.post_quant_conv(z) if model.post_quant_conv is not None else z)

    image = {"sample": torch.rand(B, 3, H, W).double() * 2 - 1}
    compare(cocogold, tmp_path, "vae.encoder", model, image, moments, "moments", ["sample"])
    model.zero_grad()
    latent = {"latent": torch.randn(B, config["latent_channels"], H // 4 + 1, W // 4 + 2).double()}
    compare(cocogold, tmp_path, "vae.decoder", model, latent, picture, "sample", ["latent"])


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_text_encoder(cocogold, tmp_path, seeds, act, draw):
    size = seeds.choice(HEAD_SIZES)
    heads = draw_heads(seeds, size)
    config = CLIPTextConfig(
        vocab_size=seeds.choice([50, 99]),
        hidden_size=heads * size,
        intermediate_size=seeds.choice([24, 37, 40]),
        num_hidden_layers=seeds.choice([1, 2, 3]),
        num_attention_heads=heads,
        max_position_embeddings=seeds.choice([12, 20]),
        hidden_act=act,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    model = CLIPTextModel(config)
    # Scores of order 1: where a softmax is all but one-hot, its gradient is a difference of equal numbers and float32
    # (PyTorch's as well) has no digits left.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
    randomise(model).float().save_pretrained(tmp_path / "text_encoder")
    model.double()
    inputs = {"input_ids": torch.randint(0, config.vocab_size, (3, 12))}
    print(config.hidden_size, heads)
    run = lambda x: model(x["input_ids"]).last_hidden_state
    compare(cocogold, tmp_path, "text_encoder", model, inputs, run, "last_hidden_state", [])


def test_mistakes(cocogold, tmp_path, seeds):
    config = draw_unet(seeds, True) | {"cross_attention_dim": 20, "in_channels": 4}
    UNet2DConditionModel(**config).save_pretrained(tmp_path / "unet")
    good = {
        "sample": np.zeros((2, 4, 8, 8), np.float32),
        "timestep": np.array([1, 2]),
        "encoder_hidden_states": np.zeros((2, 3, 20), np.float32),
    }
    bad = {
        "timestep": [None, np.array([1]), np.zeros(2, np.float32)],
        "sample": [None, np.zeros((2, 5, 8, 8), np.float32), np.zeros((2, 4, 8), np.float32)],
        "encoder_hidden_states": [None, np.zeros((2, 3, 21), np.float32), np.zeros((1, 3, 20), np.float32)],
        "grad_output": [np.zeros((2, 4, 8, 9), np.float32)],
    }
    path = tmp_path / "in.safetensors"
    out = tmp_path / "out.safetensors"
    for name, values in bad.items():
        for value in values:
            tensors = {k: v for k, v in (good | {name: value}).items() if v is not None}
            save_file(tensors, path)
            said = cocogold("probe", "unet", "--model", tmp_path, "--in", path, "--out", out, fails=True)
            assert "in.safetensors" in said and name in said
            assert not out.exists()
    save_file(good, path)
    said = cocogold("probe", "vae.encoder", "--model", tmp_path, "--in", path, "--out", out, fails=True)
    assert "vae/config.json" in said
    assert "--model" in cocogold("probe", "unet", fails=True)
    assert "vae.decoder" in cocogold("probe", "vae", "--model", tmp_path, "--in", path, "--out", out, fails=True)
