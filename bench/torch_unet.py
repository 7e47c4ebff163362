"""Stable Diffusion's UNet in plain PyTorch, with the names and the arithmetic of diffusers' UNet2DConditionModel, for
machines that have PyTorch but not diffusers. tests/reference/test_torch_unet.py compares the two."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Resnet(nn.Module):
    def __init__(self, inp, out, time, groups, eps):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inp, eps), nn.Conv2d(inp, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, out)
        self.norm2, self.conv2 = nn.GroupNorm(groups, out, eps), nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, channels, context, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, channels, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x, context):
        heads = lambda t: t.unflatten(2, (self.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = heads(self.to_q(x)), heads(self.to_k(context)), heads(self.to_v(context))
        return self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Geglu(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x):
        a, gate = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(Geglu(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self, channels, context, heads):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.attn1, self.attn2 = Attention(channels, channels, heads), Attention(channels, context, heads)
        self.ff = FeedForward(channels)

    def forward(self, x, context):
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, channels, context, heads, groups, linear):
        super().__init__()
        self.linear = linear
        project = (lambda: nn.Linear(channels, channels)) if linear else (lambda: nn.Conv2d(channels, channels, 1))
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in, self.proj_out = project(), project()
        self.transformer_blocks = nn.ModuleList([Block(channels, context, heads)])

    def forward(self, x, context):
        B, C, H, W = x.shape
        rows = lambda t: t.permute(0, 2, 3, 1).reshape(B, H * W, C)  # noqa: E731
        picture = lambda t: t.reshape(B, H, W, C).permute(0, 3, 1, 2)  # noqa: E731
        h = self.norm(x)
        h = self.proj_in(rows(h)) if self.linear else rows(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + (picture(self.proj_out(h)) if self.linear else self.proj_out(picture(h)))


class Sampler(nn.Module):  # halves or doubles the side
    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1)

    def forward(self, x):
        return self.conv(x)


class Stage(nn.Module):
    def __init__(self, resnets, attentions, down=None, up=None):
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(resnets), nn.ModuleList(attentions)
        if down:
            self.downsamplers = nn.ModuleList([Sampler(down, 2)])
        if up:
            self.upsamplers = nn.ModuleList([Sampler(up, 1)])


def timestep_embedding(t, size):
    """(B, size) of integers (B): cosines, then sines, as Stable Diffusion has them."""
    half = size // 2
    angles = t[:, None].float() * torch.exp(torch.arange(half, device=t.device, dtype=torch.float32)
                                            * (-math.log(10000) / half))  # fmt: skip
    return torch.cat((angles.cos(), angles.sin()), 1)


class TimeEmbedding(nn.Module):
    def __init__(self, inp, out):
        super().__init__()
        self.inp, self.linear_1, self.linear_2 = inp, nn.Linear(inp, out), nn.Linear(out, out)

    def forward(self, t):
        embedded = timestep_embedding(t, self.inp).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedded)))


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, widths = config, config["block_out_channels"]
        groups, eps, time, context = c["norm_num_groups"], c["norm_eps"], 4 * widths[0], c["cross_attention_dim"]
        heads = c["attention_head_dim"]  # diffusers' old name: the number of heads
        heads = heads if isinstance(heads, list) else [heads] * len(widths)
        layers, last = c["layers_per_block"], len(widths) - 1
        resnet = lambda inp, out: Resnet(inp, out, time, groups, eps)  # noqa: E731

        def attention(level):
            return Transformer(widths[level], context, heads[level], groups, c["use_linear_projection"])

        self.conv_in = nn.Conv2d(c["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            attends = "Attn" in c["down_block_types"][i]
            self.down_blocks.append(Stage([resnet(before if k == 0 else width, width) for k in range(layers)],
                                          [attention(i) for _ in range(layers if attends else 0)],
                                          down=width if i < last else None))  # fmt: skip
            skips += [width] * (layers + (i < last))
        self.mid_block = Stage([resnet(widths[-1], widths[-1]) for _ in range(2)], [attention(last)])
        width = widths[-1]
        for k, i in enumerate(reversed(range(len(widths)))):
            attends, resnets = "Attn" in c["up_block_types"][k], []
            for _ in range(layers + 1):
                resnets.append(resnet(width + skips.pop(), widths[i]))
                width = widths[i]
            self.up_blocks.append(Stage(resnets, [attention(i) for _ in range(layers + 1 if attends else 0)],
                                        up=width if i else None))  # fmt: skip
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps)
        self.conv_out = nn.Conv2d(widths[0], c["out_channels"], 3, padding=1)

    def forward(self, x, t, context):
        time, x = self.time_embedding(t), self.conv_in(x)
        skips = [x]
        for stage in self.down_blocks:
            for k, resnet in enumerate(stage.resnets):
                x = resnet(x, time)
                if stage.attentions:
                    x = stage.attentions[k](x, context)
                skips.append(x)
            if hasattr(stage, "downsamplers"):
                x = stage.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block.attentions[0](self.mid_block.resnets[0](x, time), context)
        x = self.mid_block.resnets[1](x, time)
        for stage in self.up_blocks:
            for k, resnet in enumerate(stage.resnets):
                x = resnet(torch.cat((x, skips.pop()), 1), time)
                if stage.attentions:
                    x = stage.attentions[k](x, context)
            if hasattr(stage, "upsamplers"):
                x = stage.upsamplers[0](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.conv_norm_out(x)))
