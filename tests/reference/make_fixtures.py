"""Writes tests/fixtures: what PyTorch, diffusers and transformers compute, for the C tests that run without them.

    .venv/bin/python tests/reference/make_fixtures.py [FOLDER]

layers.safetensors     LAYER.CASE.TENSOR: inputs (exact in bfloat16), outputs and gradients of single layers, in the
                       layouts of kernels/kernels.h (channels-last)
schedule-NAME/         scheduler_config.json, and alphas_cumprod and DDIM's steps in steps.safetensors
MODULE/                config.json and weights (exact in bfloat16), and per case CASE.safetensors in PyTorch's layouts:
                       inputs under the names of `cocogold probe`, grad_output, output, grad.INPUT, grad.PARAMETER, and
                       bf16.output and bf16.grad: the relative errors of PyTorch itself in bfloat16 (of the output; of
                       the gradients in the order of their sorted names)

Everything is computed in float64 and stored as F32; inputs are stored as BF16. Seeds are fixed."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import diffusers
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

diffusers.utils.logging.set_verbosity_error()

# ---- Numbers ---------------------------------------------------------------------------------------------------------


def generator(*words):
    return torch.Generator().manual_seed(sum((i + 1) * b for i, b in enumerate("/".join(map(str, words)).encode())))


def exact(tensor):
    """Rounded to bfloat16, as float64."""
    return tensor.to(torch.bfloat16).double()


def draw(name, *shape, scale=1.0, shift=0.0):
    return exact(torch.randn(*shape, generator=generator(name)) * scale + shift)


def stored(tensors):
    """Inputs as BF16 where that is exact, results as F32."""
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        if tensor.is_floating_point():
            narrow = tensor.to(torch.bfloat16)
            tensor = narrow if torch.equal(narrow.double(), tensor.double()) else tensor.float()
        out[name] = tensor.clone()
    return out


# ---- Layers ----------------------------------------------------------------------------------------------------------


def last(x):
    """NCHW to channels-last."""
    return x.permute(0, 2, 3, 1)


def first(x):
    return x.permute(0, 3, 1, 2)


def layer(tensors, name, run, inputs, grads=None):
    """Adds inputs, outputs and, with output gradients drawn here, the gradients of `grads` (default: all inputs)."""
    inputs = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in inputs.items()}
    out = run(**inputs)
    tensors.update({f"{name}.{key}": value for key, value in inputs.items()} | {f"{name}.out": out})
    if grads is None:
        grads = [key for key, value in inputs.items() if value.is_floating_point()]
    if grads:
        dout = draw(name + ".dout", *out.shape)
        out.backward(dout)
        tensors.update({f"{name}.dout": dout} | {f"{name}.d{key}": inputs[key].grad for key in grads})


def conv(tensors, name, K, stride, pad, B=2, H=9, W=7, IC=12, OC=20, extras=False):
    def run(inp, weight, bias, sample_bias=None, residual=None):
        x = F.pad(first(inp), (pad[0], pad[1], pad[0], pad[1]))
        out = last(F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride))
        return out if sample_bias is None else out + sample_bias[:, None, None] + residual

    inputs = {
        "inp": draw(name + "i", B, H, W, IC),
        "weight": draw(name + "w", OC, K, K, IC, scale=(K * K * IC) ** -0.5),
        "bias": draw(name + "b", OC),
    }
    if extras:
        oh, ow = ((s + sum(pad) - K) // stride + 1 for s in (H, W))
        inputs |= {"sample_bias": draw(name + "s", B, OC), "residual": draw(name + "r", B, oh, ow, OC)}
    layer(tensors, name, run, inputs)


def norms(tensors):
    for silu in (False, True):
        name = "groupnorm.silu" if silu else "groupnorm.plain"

        def group(inp, weight, bias):
            y = F.group_norm(inp.transpose(1, 2), 4, weight, bias, 1e-5).transpose(1, 2)
            return F.silu(y) if silu else y

        C = 24
        inputs = {"inp": draw(name, 2, 35, C, shift=0.5), "weight": draw(name + "w", C, scale=0.2, shift=1)}
        layer(tensors, name, group, inputs | {"bias": draw(name + "b", C)})
    inputs = {"inp": draw("ln", 13, 40, shift=0.5), "weight": draw("lnw", 40, scale=0.2, shift=1)}
    run = lambda inp, weight, bias: F.layer_norm(inp, (40,), weight, bias, 1e-5)
    layer(tensors, "layernorm.plain", run, inputs | {"bias": draw("lnb", 40)})


def attention(tensors, name, NH, Tq, Tk, HS, causal):
    def run(q, k, v):
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal)
        return out.transpose(1, 2)

    inputs = {"q": draw(name + "q", 2, Tq, NH, HS), "k": draw(name + "k", 2, Tk, NH, HS)}
    layer(tensors, name, run, inputs | {"v": draw(name + "v", 2, Tk, NH, HS)})


def gaussian(tensors):
    moments = draw("moments", 30, 8)
    moments[0, 4:] = torch.tensor([25.0, -40.0, 20.0, -30.0])  # beyond and at the clamp
    noise = draw("gaussian noise", 30, 4)

    def distribution(moments):
        return DiagonalGaussianDistribution(moments.t()[None, :, :, None])  # (1, 2L, N, 1)

    def sample(moments, noise):
        d = distribution(moments)
        return (d.mean + d.std * noise.t()[None, :, :, None])[0, :, :, 0].t()

    layer(tensors, "gaussian.sample", sample, {"moments": moments, "noise": noise}, ["moments"])
    layer(tensors, "gaussian.mode", lambda moments: distribution(moments).mode()[0, :, :, 0].t(), {"moments": moments})
    layer(tensors, "gaussian.kl", lambda moments: distribution(moments).kl(), {"moments": moments[1:]}, [])
    x = moments[1:].clone().requires_grad_(True)
    distribution(x).kl().sum().backward()
    tensors["gaussian.kl.dmoments"] = x.grad


def losses(tensors):
    inputs = {"pred": draw("pred", 3, 24), "target": draw("target", 3, 24)}
    kinds = {
        "mse": lambda pred, target: F.mse_loss(pred, target, reduction="none").mean(1),
        "l1_mse": lambda pred, target: (
            F.l1_loss(pred, target, reduction="none") + 0.5 * F.mse_loss(pred, target, reduction="none")
        ).mean(1),
    }
    for name, run in kinds.items():
        layer(tensors, f"loss.{name}", run, inputs, [])
        pred = inputs["pred"].clone().requires_grad_(True)
        run(pred, inputs["target"]).mean().backward()
        tensors[f"loss.{name}.dpred"] = pred.grad


def adamw(tensors):
    """Three clipped steps of torch.optim.AdamW."""
    master = torch.nn.Parameter(draw("master", 200))
    tensors["adamw.steps.master"] = master.detach().clone()
    optimizer = torch.optim.AdamW([master], lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    masters, norms = [], []
    grads = torch.stack([draw(f"adam{step}", 200, scale=10**-step) for step in range(3)])
    for grad in grads:
        master.grad = grad.clone()
        norms.append(torch.nn.utils.clip_grad_norm_([master], 5.0))
        optimizer.step()
        masters.append(master.detach().clone())
    tensors |= {
        "adamw.steps.grads": grads,
        "adamw.steps.norms": torch.stack(norms),
        "adamw.steps.masters": torch.stack(masters),
        "adamw.steps.exp_avg": optimizer.state[master]["exp_avg"],
        "adamw.steps.exp_avg_sq": optimizer.state[master]["exp_avg_sq"],
    }
    return tensors


def diffusion(tensors):
    """Noising, and one DDIM step of each prediction type from timestep 700 to 600."""
    x0, noise, out = (draw(f"diffusion {name}", 3, 40) for name in ("x0", "noise", "out"))
    timesteps = torch.tensor([0, 700, 999])
    for prediction in ("epsilon", "v_prediction", "sample"):
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            timestep_spacing="trailing", set_alpha_to_one=False, prediction_type=prediction,
        )  # fmt: skip
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.set_timesteps(10)
        name = f"diffusion.{prediction}"
        step = scheduler.step(out, 699, x0)
        tensors |= {
            f"{name}.alphas_cumprod": scheduler.alphas_cumprod,
            f"{name}.x0": x0,
            f"{name}.noise": noise,
            f"{name}.timesteps": timesteps.to(torch.int32),
            f"{name}.noisy": scheduler.add_noise(x0, noise, timesteps),
            f"{name}.velocity": scheduler.get_velocity(x0, noise, timesteps),
            f"{name}.model_out": out,
            f"{name}.stepped": step.prev_sample,
            f"{name}.predicted_x0": step.pred_original_sample,
        }
    return tensors


def layers():
    t = {}
    conv(t, "conv2d.plain", 3, 1, (1, 1))
    conv(t, "conv2d.extras", 3, 1, (1, 1), H=5, W=6, IC=8, OC=16, extras=True)
    conv(t, "conv2d.stride", 3, 2, (1, 1))
    conv(t, "conv2d.asymmetric", 3, 2, (0, 1))
    conv(t, "conv2d.asymmetric_even", 3, 2, (0, 1), H=6, W=8, IC=3, OC=5)
    conv(t, "conv2d.pointwise", 1, 1, (0, 0))
    linear = {"inp": draw("lin", 17, 24), "weight": draw("linw", 40, 24, scale=0.2), "bias": draw("linb", 40)}
    layer(t, "linear.residual", lambda inp, weight, bias, residual: F.linear(inp, weight, bias) + residual,
          linear | {"residual": draw("linr", 17, 40)})  # fmt: skip
    norms(t)
    activations = {
        "silu": F.silu,
        "gelu": F.gelu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "geglu": lambda x: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]),
    }
    for name, run in activations.items():
        layer(t, f"activation.{name}", lambda inp, run=run: run(inp), {"inp": draw(name, 11, 40, scale=2)})
    attention(t, "attention.self", 3, 35, 35, 16, False)
    attention(t, "attention.causal", 2, 13, 13, 8, True)
    attention(t, "attention.cross", 2, 21, 6, 40, False)
    embed = {"token_weight": draw("tok", 50, 16), "position_weight": draw("pos", 9, 16)}
    ids = torch.tensor([[3, 1, 3, 49, 0, 3, 7], [1, 1, 2, 3, 48, 0, 0]], dtype=torch.int32)
    layer(t, "embedding.tokens",
          lambda ids, token_weight, position_weight: F.embedding(ids, token_weight) + position_weight[:7],
          {"ids": ids} | embed)  # fmt: skip
    steps = torch.tensor([0.0, 1.0, 499.0, 981.0, 999.0], dtype=torch.float64)
    for flip in (False, True):
        for shift in (0, 1):
            t[f"timestep.flip{int(flip)}_shift{shift}.timesteps"] = steps
            t[f"timestep.flip{int(flip)}_shift{shift}.out"] = timestep_embedding(steps, 32, flip, shift)
    for H, W, OH, OW in [(3, 5, 6, 10), (3, 5, 5, 9), (4, 3, 7, 6)]:
        layer(t, f"upsample.{OH}x{OW}", lambda inp: last(F.interpolate(first(inp), size=(OH, OW), mode="nearest")),
              {"inp": draw("up", 2, H, W, 8)})  # fmt: skip
    gaussian(t)
    losses(t)
    adamw(t)
    diffusion(t)
    return t


def timestep_embedding(steps, C, flip, shift):
    """In double; diffusers' own, in float, differs by what a float holds of angles up to 1000."""
    half = C // 2
    angles = steps[:, None] * torch.exp(-np.log(10000) * torch.arange(half, dtype=torch.float64) / (half - shift))
    out = torch.cat([angles.cos(), angles.sin()] if flip else [angles.sin(), angles.cos()], 1)
    theirs = get_timestep_embedding(steps, C, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    assert (out - theirs).abs().max() < 1e-4
    return out


# ---- Schedules -------------------------------------------------------------------------------------------------------

STEPS = (1, 2, 3, 4, 10, 50)


def schedule(folder, spacing, offset, zero_snr, to_one):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, timestep_spacing=spacing, steps_offset=offset, rescale_betas_zero_snr=zero_snr,
        set_alpha_to_one=to_one,
    )  # fmt: skip
    scheduler.save_pretrained(folder)
    tensors = {"alphas_cumprod": scheduler.alphas_cumprod}
    for steps in STEPS:
        scheduler.set_timesteps(steps)
        before = [int(t) - 1000 // steps for t in scheduler.timesteps]
        after = [scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod for t in before]
        tensors[f"timesteps.{steps}"] = scheduler.timesteps.to(torch.int32)
        tensors[f"alpha_prev.{steps}"] = torch.stack(after)
    save_file(tensors, folder / "steps.safetensors")


def schedules(folder):
    for spacing in ("leading", "trailing", "linspace"):
        schedule(folder / f"schedule-{spacing}", spacing, int(spacing == "leading"), spacing != "leading", spacing == "linspace")


# ---- Whole models ----------------------------------------------------------------------------------------------------


def randomise(model, scale):
    """Norms away from 1 and 0, matrices with `scale` / sqrt(fan-in) (None: as initialised); all exact in bfloat16."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(draw(name, *p.shape, scale=0.2, shift=float("norm" in name and "weight" in name)))
            else:
                p.copy_(draw(name, *p.shape, scale=scale * p[0].numel() ** -0.5))
    return model


def gradients(model, run, inputs, grad_output, dtype):
    """Output and gradients, named as `cocogold probe` names them, with the model and all inputs in `dtype`."""
    model.to(dtype).zero_grad()
    x = {k: v.to(dtype).clone().requires_grad_(True) if v.is_floating_point() else v for k, v in inputs.items()}
    out = run(x)
    out.backward(grad_output.to(dtype))
    grads = {f"grad.{name}": v.grad.double() for name, v in x.items() if v.is_floating_point()}
    for name, p in model.named_parameters():
        if p.grad is not None:
            clip = isinstance(model, CLIPTextModel) and not name.startswith("text_model.")
            grads[f"grad.{'text_model.' * clip}{name}"] = p.grad.double().clone()
    return out.detach().double(), grads


def floors(grads):
    """What a gradient's error is relative to, if its own norm is less. Key biases have none at all mathematically, and
    what is left is the rounding of a sum of rows as large as those that make the weight's gradient."""
    total = float(sum(g.norm() ** 2 for g in grads.values()) ** 0.5)
    out = {name: 1e-6 * total for name in grads}
    for name in grads:
        if name.endswith(("to_k.bias", "k_proj.bias")):
            out[name] = max(out[name], 0.1 * float(grads[name.removesuffix("bias") + "weight"].norm()))
    return out


def case(path, model, run, inputs):
    with torch.no_grad():
        shape = run({k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}).shape
    grad_output = draw(path.name, *shape)
    out, grads = gradients(model, run, inputs, grad_output, torch.float64)
    rough, rough_grads = gradients(model, run, inputs, grad_output, torch.bfloat16)
    model.float()
    floor = floors(grads)
    errors = [float((rough_grads[n] - grads[n]).norm() / max(grads[n].norm(), floor[n])) for n in sorted(grads)]
    tensors = stored(inputs | {"grad_output": grad_output})
    tensors |= {name: tensor.float().contiguous() for name, tensor in (grads | {"output": out}).items()}
    tensors["bf16.output"] = ((rough - out).norm() / out.norm()).float().reshape(1)
    tensors["bf16.grad"] = torch.tensor(errors)
    save_file(tensors, path)
    print(f"{path.parent.name}/{path.name}: bf16 {float(tensors['bf16.output']):.1e}, gradients median "
          f"{np.median(errors):.1e}, worst {max(errors):.1e}")  # fmt: skip


def save(model, folder):
    model.to(torch.bfloat16).save_pretrained(folder)
    model.float()


def unets(folder):
    # head sizes of 8 and linear projections as SD2; a fixed number of heads and 1x1 convolutions as SD1, of 4 and 6
    kinds = {
        "unet-sd2": dict(in_channels=8, attention_head_dim=[2, 3], use_linear_projection=True, size=(9, 7)),
        "unet-sd1": dict(in_channels=4, attention_head_dim=4, use_linear_projection=False, size=(6, 10)),
    }
    for name, kind in kinds.items():
        size = kind.pop("size")
        model = UNet2DConditionModel(
            sample_size=8, out_channels=4, block_out_channels=(16, 24), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=20,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **kind,
        )  # fmt: skip
        save(randomise(model, 1.0), folder / name)
        inputs = {
            "sample": draw(name + "sample", 2, kind["in_channels"], *size),
            "timestep": torch.tensor([7, 981]),
            "encoder_hidden_states": draw(name + "text", 2, 5, 20),
        }
        run = lambda x: model(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample
        case(folder / name / "case.safetensors", model, run, inputs)


def vaes(folder):
    model = AutoencoderKL(
        block_out_channels=(8, 12), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, sample_size=16,
    )  # fmt: skip
    save(randomise(model, 1.0), folder / "vae")
    encode = lambda x: model.quant_conv(model.encoder(x["sample"]))
    decode = lambda x: model.decoder(model.post_quant_conv(x["latent"]))
    case(folder / "vae" / "encoder.safetensors", model, encode, {"sample": draw("image", 2, 3, 17, 12, scale=0.5)})
    case(folder / "vae" / "decoder.safetensors", model, decode, {"latent": draw("latent", 2, 4, 5, 7)})


def text_encoders(folder):
    for act, heads in ("gelu", 3), ("quick_gelu", 8):  # of 8 and of 3
        config = CLIPTextConfig(
            vocab_size=60, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=heads,
            max_position_embeddings=12, hidden_act=act, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
        model = randomise(CLIPTextModel(config), 1.5)
        name = f"text_encoder-{act}"
        save(model, folder / name)
        ids = torch.randint(0, 60, (3, 10), generator=generator(name))
        run = lambda x: model(x["input_ids"]).last_hidden_state
        case(folder / name / "case.safetensors", model, run, {"input_ids": ids})


def make(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored(layers()), folder / "layers.safetensors")
    schedules(folder)
    unets(folder)
    vaes(folder)
    text_encoders(folder)


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "fixtures")
