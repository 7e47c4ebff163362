"""Model directories: what this program writes loads in diffusers and transformers, and the other way round, in all the
forms that real directories have."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import relative_error
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PLAIN = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
MODULES = {"unet": "unet", "vae.encoder": "vae", "vae.decoder": "vae", "text_encoder": "text_encoder"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A four-channel Stable Diffusion directory in miniature, saved by diffusers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("source")
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8, attention_head_dim=(2, 4), cross_attention_dim=32, use_linear_projection=True,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, sample_size=32,
    )  # fmt: skip
    clip = CLIPTextModel(
        CLIPTextConfig(vocab_size=1021, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=2, max_position_embeddings=16, hidden_act="gelu",
                       bos_token_id=0, eos_token_id=2, pad_token_id=1)
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip
    for name, module in {"unet": unet, "vae": vae, "text_encoder": clip, "scheduler": scheduler}.items():
        module.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def complete(source, mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("complete") / "sd"
    shutil.copytree(source, folder)
    shutil.copytree(mini / "tokenizer", folder / "tokenizer")
    return folder


def inputs_of(module, channels=4):
    rng = np.random.default_rng(1)
    if module == "unet":
        return {
            "sample": torch.from_numpy(rng.standard_normal((2, channels, 8, 8), np.float32)),
            "timestep": torch.tensor([3, 900]),
            "encoder_hidden_states": torch.from_numpy(rng.standard_normal((2, 5, 32), np.float32)),
        }
    if module == "text_encoder":
        return {"input_ids": torch.from_numpy(rng.integers(0, 1021, (2, 16)))}
    if module == "vae.encoder":
        return {"sample": torch.from_numpy(rng.standard_normal((1, 3, 16, 16), np.float32))}
    return {"latent": torch.from_numpy(rng.standard_normal((1, 4, 8, 8), np.float32))}


def probe(cocogold, tmp_path, module, model, channels=4, fails=False):
    save_file(inputs_of(module, channels), tmp_path / "in.safetensors")
    arguments = ["--model", model, "--in", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors"]
    said = cocogold("probe", module, *arguments, fails=fails)
    return said if fails else next(iter(load_file(tmp_path / "out.safetensors").values()))


@torch.no_grad()
def expected_of(module, folder, channels=4):
    x = inputs_of(module, channels)
    if module == "unet":
        model = UNet2DConditionModel.from_pretrained(folder / "unet")
        return model(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample
    if module == "text_encoder":
        return CLIPTextModel.from_pretrained(folder / "text_encoder")(x["input_ids"]).last_hidden_state
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    if module == "vae.encoder":
        return vae.quant_conv(vae.encoder(x["sample"]))
    return vae.decode(x["latent"]).sample


@pytest.mark.parametrize("module", MODULES)
def test_saved_by_diffusers(cocogold, tmp_path, source, module):
    assert relative_error(probe(cocogold, tmp_path, module, source), expected_of(module, source)) < 1e-5


@pytest.mark.parametrize("module", ["unet", "vae.decoder", "text_encoder"])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_half_precision_names_and_shards(cocogold, tmp_path, source, module, dtype, tolerance):
    part = MODULES[module]
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    model = classes[part].from_pretrained(source / part).to(dtype)
    variants = [{}, {"variant": "fp16"}, {"max_shard_size": "20KB"}, {"variant": "fp16", "max_shard_size": "20KB"}]
    rounded = None
    for i, options in enumerate(variants):
        folder = tmp_path / str(i)
        model.save_pretrained(folder / part, **options)
        assert bool(list((folder / part).glob("*index*"))) == ("max_shard_size" in options)
        out = probe(cocogold, tmp_path, module, folder)
        assert relative_error(out, expected_of(module, source)) < tolerance
        rounded = out if rounded is None else rounded
        assert torch.equal(out, rounded)  # the same numbers, whatever files they come from
    wide = tmp_path / "wide"
    classes[part].from_pretrained(tmp_path / "0" / part).float().save_pretrained(wide / part)
    assert torch.equal(probe(cocogold, tmp_path, module, wide), rounded)  # conversion of the weights is exact


def rewrite(source, tmp_path, part, change):
    folder = tmp_path / "changed"
    shutil.copytree(source / part, folder / part)
    path = folder / part / f"{PLAIN[part]}.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def old_attention(tensors, as_conv):
    out = {}
    for name, tensor in tensors.items():
        if ".attentions.0.to_" in name:
            for new, old in OLD_NAMES.items():
                name = name.replace(new, old)
            if as_conv and tensor.ndim == 2:
                tensor = tensor[:, :, None, None].clone()
        out[name] = tensor
    assert len(out) == len(tensors) and any("proj_attn" in name for name in out)
    return out


@pytest.mark.parametrize("as_conv", [False, True])
@pytest.mark.parametrize("module", ["vae.encoder", "vae.decoder"])
def test_old_vae_attention(cocogold, tmp_path, source, module, as_conv):
    folder = rewrite(source, tmp_path, "vae", lambda t: old_attention(t, as_conv))
    assert torch.equal(probe(cocogold, tmp_path, module, folder), probe(cocogold, tmp_path, module, source))
    if not as_conv:
        assert relative_error(probe(cocogold, tmp_path, module, folder), expected_of(module, folder)) < 1e-5


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("position_ids", [False, True])
def test_text_encoder_keys(cocogold, tmp_path, source, prefix, position_ids):
    def change(tensors):
        bare = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        if position_ids:
            bare["embeddings.position_ids"] = torch.arange(16)[None]
        return {f"text_model.{name}" if prefix else name: tensor for name, tensor in bare.items()}

    folder = rewrite(source, tmp_path, "text_encoder", change)
    out = probe(cocogold, tmp_path, "text_encoder", folder)
    assert torch.equal(out, probe(cocogold, tmp_path, "text_encoder", source))
    assert relative_error(out, expected_of("text_encoder", folder)) < 1e-5


def test_damaged_weights(cocogold, tmp_path, source):
    def without(tensors, name):
        return {k: v for k, v in tensors.items() if k != name}

    weight = "conv_in.weight"
    changes = {
        "is missing": lambda t: without(t, weight),
        "is not expected": lambda t: t | {"class_embedding.weight": torch.zeros(3)},
        "has the shape": lambda t: t | {weight: torch.zeros(16, 5, 3, 3)},
        "I64": lambda t: t | {weight: t[weight].long()},
    }
    for sentence, change in changes.items():
        folder = rewrite(source, tmp_path, "unet", change)
        said = probe(cocogold, tmp_path, "unet", folder, fails=True)
        assert sentence in said and ("conv_in.weight" in said or "class_embedding" in said), said
        shutil.rmtree(folder)
    folder = rewrite(source, tmp_path, "unet", lambda t: t)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        assert "diffusion_pytorch_model.safetensors" in probe(cocogold, tmp_path, "unet", folder, fails=True)
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    assert "pickled" in probe(cocogold, tmp_path, "unet", folder, fails=True)
    weights.with_name("diffusion_pytorch_model.bin").unlink()
    assert "holds no weights" in probe(cocogold, tmp_path, "unet", folder, fails=True)


def test_missing_shard(cocogold, tmp_path, source):
    model = UNet2DConditionModel.from_pretrained(source / "unet")
    model.save_pretrained(tmp_path / "m" / "unet", max_shard_size="100KB")
    shard = sorted((tmp_path / "m" / "unet").glob("*-00002-of-*"))[0]
    shard.rename(tmp_path / "elsewhere")
    said = probe(cocogold, tmp_path, "unet", tmp_path / "m", fails=True)
    assert "shard" in said and shard.name in said


@torch.no_grad()
def test_preset_loads(cocogold, tmp_path, mini):
    for loader in (StableDiffusionPipeline, DiffusionPipeline):
        pipe = loader.from_pretrained(mini)
    assert isinstance(pipe, StableDiffusionPipeline) and isinstance(pipe.scheduler, DDIMScheduler)
    c = pipe.scheduler.config
    assert c.rescale_betas_zero_snr and c.timestep_spacing == "trailing" and not c.set_alpha_to_one
    assert c.prediction_type == "v_prediction" and not c.clip_sample and pipe.scheduler.alphas_cumprod[-1] == 0
    unet, vae, clip = pipe.unet, pipe.vae, pipe.text_encoder
    assert unet.config.in_channels == 8 and pipe.vae_scale_factor == 4
    assert 0.9e6 < sum(p.numel() for p in unet.parameters()) < 1.1e6

    ids = pipe.tokenizer(["red circle", "person"], padding="max_length", return_tensors="pt").input_ids
    assert ids.shape == (2, 16)
    save_file({"input_ids": ids}, tmp_path / "in.safetensors")
    arguments = ["--model", mini, "--in", tmp_path / "in.safetensors", "--out", tmp_path / "out.safetensors"]
    cocogold("probe", "text_encoder", *arguments)
    hidden = load_file(tmp_path / "out.safetensors")["last_hidden_state"]
    assert relative_error(hidden, clip(ids).last_hidden_state) < 1e-5

    inputs = {"sample": torch.randn(2, 8, 16, 16), "timestep": torch.tensor([999, 0]), "encoder_hidden_states": hidden}
    save_file(inputs, tmp_path / "in.safetensors")
    cocogold("probe", "unet", *arguments)
    expected = unet(inputs["sample"], inputs["timestep"], hidden).sample
    assert relative_error(load_file(tmp_path / "out.safetensors")["sample"], expected) < 1e-5
    # the VAE's log-variances start at -5
    moments = vae.quant_conv(vae.encoder(torch.rand(2, 3, 64, 64) * 2 - 1))
    assert abs(float(moments[:, 4:].mean()) + 5) < 1.5


def test_initial_weights(mini):
    """The spread of each weight is that of PyTorch's own initialisation."""
    unet = load_file(mini / "unet" / "diffusion_pytorch_model.safetensors")
    reference = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(mini / "unet")).state_dict()
    assert set(unet) == set(reference)
    for name, tensor in unet.items():
        wanted = reference[name]
        if wanted.numel() >= 1000:
            assert abs(float(tensor.std() / wanted.std()) - 1) < 0.1, name
            assert float(tensor.abs().max()) <= 1.01 * float(wanted.abs().max()), name
        if "norm" in name:
            assert torch.equal(tensor, wanted), name
    flat = torch.cat([t.flatten() for t in unet.values()])
    assert abs(float(flat.mean())) < 1e-2 and len(torch.unique(flat)) > 0.5 * flat.numel()


def test_seeds(cocogold, tmp_path, mini):
    file = "unet/diffusion_pytorch_model.safetensors"
    cocogold("init", "--preset", "mini", tmp_path / "same")
    cocogold("init", "--preset", "mini", "--seed", "1", tmp_path / "other")
    assert (tmp_path / "same" / file).read_bytes() == (mini / file).read_bytes()
    assert (tmp_path / "other" / file).read_bytes() != (mini / file).read_bytes()
    said = cocogold("init", "--preset", "mini", tmp_path / "same", fails=True)
    assert "not empty" in said and "--force" in said
    cocogold("init", "--preset", "mini", "--force", tmp_path / "same")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "same"]
    assert "mini" in cocogold("init", "--preset", "maxi", tmp_path / "x", fails=True)
    assert "--preset" in cocogold("init", tmp_path / "x", fails=True)


@torch.no_grad()
def test_from_stable_diffusion(cocogold, tmp_path, complete):
    said = cocogold("init", "--from", complete, tmp_path / "ours")
    assert said.count("sha256") >= 7 and "cross_attention_dim" in said
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "ours")
    c = pipe.scheduler.config
    assert (c.beta_start, c.beta_end, c.beta_schedule, c.prediction_type) == (0.00085, 0.012, "scaled_linear", "v_prediction")
    assert c.rescale_betas_zero_snr and c.timestep_spacing == "trailing" and not c.set_alpha_to_one and not c.clip_sample
    old = load_file(complete / "unet" / "diffusion_pytorch_model.safetensors")
    new = pipe.unet.state_dict()
    assert set(old) == set(new)
    for name, tensor in new.items():
        wanted = old[name] if name != "conv_in.weight" else torch.cat([old[name], old[name]], dim=1) / 2
        assert torch.equal(tensor, wanted), name
    x = inputs_of("unet")
    twice = torch.cat([x["sample"], x["sample"]], dim=1)
    both = pipe.unet(twice, x["timestep"], x["encoder_hidden_states"]).sample
    assert relative_error(both, expected_of("unet", complete)) < 1e-5
    file = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "ours" / file).stat().st_ino == (complete / file).stat().st_ino  # linked, not copied
    assert relative_error(probe(cocogold, tmp_path, "unet", tmp_path / "ours", 8), expected_of("unet", tmp_path / "ours", 8)) < 1e-5
    assert "in_channels" in cocogold("init", "--from", tmp_path / "ours", tmp_path / "again", fails=True)
    assert not (tmp_path / "again").exists()


def test_from_epsilon_model(cocogold, tmp_path, complete):
    folder = tmp_path / "sd1"
    shutil.copytree(complete, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "epsilon"}))
    said = cocogold("init", "--from", folder, tmp_path / "ours")
    assert "epsilon" in said and "rescale_betas_zero_snr" in said
    assert not DDIMScheduler.from_pretrained(tmp_path / "ours" / "scheduler").config.rescale_betas_zero_snr


@pytest.mark.parametrize(
    "part,field,value",
    [
        ("unet", "act_fn", "gelu"),
        ("unet", "time_cond_proj_dim", 32),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "addition_embed_type", "text"),
        ("unet", "dual_cross_attention", True),
        ("unet", "only_cross_attention", True),
        ("unet", "only_cross_attention", [True, False]),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("unet", "mid_block_type", "UNetMidBlock2D"),
        ("unet", "center_input_sample", True),
        ("unet", "_class_name", "UNet2DModel"),
        ("unet", "down_block_types", ["AttnDownBlock2D", "DownBlock2D"]),
        ("unet", "down_block_types", ["DownBlock2D"]),
        ("unet", "attention_head_dim", [3, 4]),
        ("unet", "transformer_layers_per_block", [1, 2]),
        ("unet", "norm_num_groups", 5),
        ("unet", "in_channels", "4"),
        ("unet", "cross_attention_dim", -1),
        ("vae", "shift_factor", 0.1),
        ("vae", "latents_mean", [0.0, 0.0]),
        ("vae", "act_fn", "relu"),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("vae", "scaling_factor", 0),
        ("text_encoder", "hidden_act", "relu"),
        ("text_encoder", "model_type", "bert"),
        ("text_encoder", "num_attention_heads", 3),
    ],
)
def test_refused_config(cocogold, tmp_path, source, part, field, value):
    folder = tmp_path / "changed"
    shutil.copytree(source / part, folder / part)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    module = "vae.encoder" if part == "vae" else part
    said = probe(cocogold, tmp_path, module, folder, fails=True)
    assert f"{part}/config.json" in said and f'"{field}"' in said, said


@torch.no_grad()
def test_configs_round_trip(cocogold, tmp_path, complete):
    """What `init --from` writes keeps every field that matters."""
    cocogold("init", "--from", complete, tmp_path / "ours")
    old = UNet2DConditionModel.load_config(complete / "unet")
    new = UNet2DConditionModel.from_pretrained(tmp_path / "ours" / "unet").config
    for field, value in old.items():
        if not field.startswith("_") and field != "in_channels":
            wanted = new[field]
            assert (list(wanted) if isinstance(wanted, (list, tuple)) else wanted) == (
                list(value) if isinstance(value, (list, tuple)) else value
            ), field


@pytest.mark.skipif("COCOGOLD_FULL" not in os.environ, reason="writes 5 GB: set COCOGOLD_FULL=1")
@pytest.mark.parametrize("preset,begin_pad", [("sd1", 49407), ("sd2", 0)])
def test_full_size_presets(cocogold, tmp_path, preset, begin_pad):
    """Names and shapes are those of the models that diffusers and transformers build from the written configurations."""
    cocogold("init", "--preset", preset, tmp_path / "m")
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(tmp_path / "m" / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(tmp_path / "m" / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(tmp_path / "m" / "text_encoder")),
        }
    for part, model in models.items():
        with safe_open(tmp_path / "m" / part / f"{PLAIN[part]}.safetensors", "pt") as file:
            found = {name.removeprefix("text_model."): file.get_slice(name).get_shape() for name in file.keys()}
        wanted = {name.removeprefix("text_model."): list(p.shape) for name, p in model.named_parameters()}
        assert found == wanted
    assert models["unet"].config.in_channels == 8
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "m" / "tokenizer")
    ids = tokenizer("red circle", padding="max_length", max_length=77)["input_ids"]
    assert (ids[0], ids[3], ids[4], len(ids)) == (49406, 49407, begin_pad, 77)
    shutil.rmtree(tmp_path / "m")
