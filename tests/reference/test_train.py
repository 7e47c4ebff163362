"""Five optimizer steps of the mini UNet against PyTorch: the same shards, noise and timesteps (Philox in numpy),
diffusers' UNet, torch's AdamW. And what a run leaves behind: checkpoints, log.jsonl, TensorBoard's files."""

import json
import struct

import h5py
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from conftest import relative_error, run_cocogold

NOISE, MULTIRES, TIMESTEP, SHUFFLE = 1, 2, 3, 6  # streams of util/philox.h
STEPS, ROWS, MICRO_STEPS, SEED = 5, 4, 2, 77
LR, WARMUP, TOTAL, FINAL = 1e-3, 2, 9, 0.05
BETAS, EPSILON, DECAY, CLIP, EMA = (0.9, 0.99), 1e-8, 0.01, 1.5, 0.8


def philox(seed, stream, step, sample, blocks):
    """Philox4x32-10 (Salmon et al. 2011): (len(blocks), 4) words, with the counter and key of util/philox.h."""
    blocks = np.asarray(blocks, np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    c0, c1 = blocks & mask, np.full_like(blocks, sample & 0xFFFFFFFF)
    c2, c3 = np.full_like(blocks, (sample >> 32 & 0xFFFF) | stream << 16), np.full_like(blocks, step)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & mask, (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return np.stack([c0, c1, c2, c3], 1)


def uniform(words):
    return ((words >> np.uint64(9)).astype(np.float64) + 0.5) / 8388608


def below(words, n):
    return (words * np.uint64(n) >> np.uint64(32)).astype(np.int64)


def normal(n, stream, step, sample, first_block=0):
    """n standard normal numbers: a block of four words gives four of them, by Box and Muller."""
    u = uniform(philox(SEED, stream, step, sample, first_block + np.arange((n + 3) // 4)))
    radius, angle = np.sqrt(-2 * np.log(u[:, 0::2])), 2 * np.pi * u[:, 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(-1)[:n]


def test_philox_known_answers():
    """Vectors that the authors publish with their code (Random123, kat_vectors)."""
    for counter, key, words in (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):
        result = philox(key[0] | key[1] << 32, counter[2] >> 16, counter[3], counter[1] | (counter[2] & 0xFFFF) << 32,
                        [counter[0]])  # fmt: skip
        assert tuple(int(w) for w in result[0]) == words


def permutation(epoch, n):
    """loader.h's shuffle: Fisher and Yates, from the end."""
    words = philox(SEED, SHUFFLE, epoch, 0, np.arange((n + 3) // 4)).reshape(-1)
    order = np.arange(n)
    for k, i in enumerate(range(n - 1, 0, -1)):
        j = below(words[k : k + 1], i + 1)[0]
        order[i], order[j] = order[j], order[i]
    return order


def multires(noise, t, strength, step, sample):
    """Annealed multi-resolution noise as kernels.h states it; noise (h, w, c)."""
    height, width, channels = noise.shape
    out = torch.from_numpy(noise * np.sqrt(2)).permute(2, 0, 1)[None]
    h, w = height, width
    for i in range(1, 10):
        r = 2 + 2 * uniform(philox(SEED, MULTIRES, step, sample, [i]))[0, 0]
        h, w = max(1, int(h / r**i)), max(1, int(w / r**i))
        level = normal(h * w * channels, MULTIRES, step, sample, i << 24).reshape(h, w, channels)
        up = torch.from_numpy(level).permute(2, 0, 1)[None]
        up = torch.nn.functional.interpolate(up, (height, width), mode="bilinear", align_corners=False)
        out = out + (strength * t / 1000) ** i * up
        if h == 1 or w == 1:
            break
    return (out / out.std())[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def base(tmp_path_factory, mini):
    """A data set and its latents by the random VAE."""
    folder = tmp_path_factory.mktemp("train")
    run_cocogold("synth", folder / "data", "--train", 40, "--val", 8)
    for split in ("train", "val"):
        run_cocogold("encode", "--model", mini, "--data", folder / "data", "--split", split, "--out",
                     folder / "latents", "--targets", "overlay,mask", "--min-side", 1)  # fmt: skip
    return folder


def train(base, mini, out, *options):
    run_cocogold(
        "train", "--model", mini, "--shards", base / "latents", "--out", out, "--max-train-steps", STEPS,
        "--train-batch-size", ROWS, "--gradient-accumulation-steps", MICRO_STEPS, "--seed", SEED, "--lr", LR,
        "--lr-warmup-steps", WARMUP, "--lr-total-steps", TOTAL, "--lr-final", FINAL, "--adam-beta2", BETAS[1],
        "--weight-decay", DECAY, "--max-grad-norm", CLIP, "--ema-decay", EMA, "--checkpoint-every", 1,
        "--checkpoints-total-limit", 0, "--validate-every", STEPS, "--validation-samples", 8, *options,
    )  # fmt: skip
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(base, mini):
    out = base / "mse"
    return out, train(base, mini, out, "--multires-noise", 0)


class Shards:
    """The training shards, read with h5py; batches in the loader's order."""

    def __init__(self, folder, target):
        with h5py.File(folder / "train-00000.h5") as f:
            self.image, self.target = (f[name][:].astype(np.float32) for name in ("image_latent", target))
            packed, self.index = f["mask"][:], f["class"][:]
            resolution = int(f.attrs["resolution"])
            self.classes = [c.decode() for c in f.attrs["classes"]]
        self.mask = np.unpackbits(packed, axis=2)[:, :, :resolution].astype(np.float64)

    def sample(self, position):
        n = len(self.index)
        return permutation(position // n, n)[position % n]


def embeddings(mini, classes):
    tokenizer = CLIPTokenizer.from_pretrained(mini / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(mini / "text_encoder")
    ids = tokenizer(classes, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                    return_tensors="pt")  # fmt: skip
    with torch.no_grad():
        return encoder(ids.input_ids).last_hidden_state


def cell_weights(mask, h, w):
    f = mask.reshape(h, mask.shape[0] // h, w, mask.shape[1] // w).mean((1, 3))
    F = f.mean()
    return f / (2 * F) + (1 - f) / (2 * (1 - F)) if 0 < F < 1 else np.ones_like(f)


def sample_losses(kind, prediction, goal, weights):
    """(B) losses of (B, C, h, w)."""
    cells = ((prediction - goal) ** 2).mean(1).flatten(1)
    if kind == "mse":
        return cells.mean(1)
    if kind == "weighted":
        return (weights.flatten(1) * cells).sum(1) / weights.flatten(1).sum(1)
    focal = (1 - torch.exp(-cells)).detach() ** 2
    return (focal * cells).mean(1) / focal.mean(1)


PIXEL_WEIGHT = 0.7


def pixel_losses(vae, kind, x0, target):
    """(B): L1, or Dice of soft masks, between the pictures of predicted and true latents."""
    pictures, goal = (vae.decode(z / vae.config.scaling_factor).sample for z in (x0, target))
    if kind == "l1":
        return (pictures - goal).abs().mean((1, 2, 3))
    s, m = (1 - (p - 1).abs().mean(1).flatten(1) / 2 for p in (pictures, goal))
    return 1 - (2 * (s * m).sum(1) + 1) / ((s * s).sum(1) + (m * m).sum(1) + 1)


def reference_steps(mini, shards, kind, strength, t_max_prob=0.0, pixel=None, start_of=None):
    """The same training with diffusers and torch; yields (loss, norm, lr, state dict, average) of each step. start_of(k):
    the weights that step k (from 1) starts from, if not those of the step before."""
    unet = UNet2DConditionModel.from_pretrained(mini / "unet")
    scheduler = DDIMScheduler.from_pretrained(mini / "scheduler")
    vae = AutoencoderKL.from_pretrained(mini / "vae").requires_grad_(False)
    context = embeddings(mini, shards.classes)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LR, betas=BETAS, eps=EPSILON, weight_decay=DECAY)
    average = {k: v.clone() for k, v in unet.state_dict().items()}
    h, w, channels = shards.image.shape[1:]
    for step in range(STEPS):
        if start_of and step > 0:
            unet.load_state_dict(start_of(step))
        optimizer.zero_grad()
        total = 0.0
        for micro in range(MICRO_STEPS):
            positions = [(step * MICRO_STEPS + micro) * ROWS + b for b in range(ROWS)]
            rows = [shards.sample(p) for p in positions]
            words = [philox(SEED, TIMESTEP, step, p, [0])[0] for p in positions]
            t = [999 if uniform(x[:1])[0] < t_max_prob else int(below(x[1:2], 1000)[0]) for x in words]
            noise = [normal(h * w * channels, NOISE, step, p).reshape(h, w, channels) for p in positions]
            if strength:
                noise = [multires(n, t[b], strength, step, positions[b]) for b, n in enumerate(noise)]
            to_torch = lambda x: torch.from_numpy(np.stack(x).astype(np.float32)).permute(0, 3, 1, 2)  # noqa: E731
            image, target, noise = to_torch(shards.image[rows]), to_torch(shards.target[rows]), to_torch(noise)
            t = torch.tensor(t)
            noisy = scheduler.add_noise(target, noise, t)
            goal = scheduler.get_velocity(target, noise, t)
            prediction = unet(torch.cat([image, noisy], 1), t, context[shards.index[rows].astype(int)]).sample
            weights = torch.from_numpy(np.stack([cell_weights(shards.mask[r], h, w) for r in rows])).float()
            losses = sample_losses(kind, prediction, goal, weights)
            if pixel:
                alpha = scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1)
                x0 = alpha**0.5 * noisy - (1 - alpha) ** 0.5 * prediction
                losses = losses + PIXEL_WEIGHT * pixel_losses(vae, pixel, x0, target)
            loss = losses.mean() / MICRO_STEPS
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(unet.parameters(), CLIP).item()
        x = min(1, (step - WARMUP) / (TOTAL - WARMUP))
        lr = LR * (step + 1) / WARMUP if step < WARMUP else LR * FINAL**x
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        decay = min(EMA, (1 + step) / (10 + step))
        state = unet.state_dict()
        average = {k: decay * v + (1 - decay) * state[k] for k, v in average.items()}
        yield total, norm, lr, {k: v.clone() for k, v in state.items()}, average


def flat(state, keys):
    return np.concatenate([state[k].numpy().ravel() for k in keys])


def weights_at(out, step, part="unet"):
    return UNet2DConditionModel.from_pretrained(out / f"checkpoint-{step:06d}" / part).state_dict()


def compare(out, log, steps, mini):
    lines = [line for line in log if line["kind"] == "step"]
    start = UNet2DConditionModel.from_pretrained(mini / "unet").state_dict()
    keys = list(start)
    for k, (loss, norm, lr, state, average) in enumerate(steps, 1):
        line = lines[k - 1]
        assert line["step"] == k and line["lr"] == pytest.approx(lr, rel=1e-9)
        ours = weights_at(out, k)
        errors = {
            "loss": abs(line["loss"] - loss) / loss,
            "norm": abs(line["grad_norm"] - norm) / norm,
            "weights": relative_error(flat(ours, keys), flat(state, keys)),
            "change": relative_error(flat(ours, keys) - flat(start, keys), flat(state, keys) - flat(start, keys)),
        }
        print(f"step {k}: loss {loss:.5f}, norm {norm:.4f}; relative errors", {n: f"{e:.1e}" for n, e in errors.items()})
        assert errors["loss"] < 1e-5 and errors["norm"] < 1e-4 and errors["weights"] < 1e-4 and errors["change"] < 1e-2
    ema = weights_at(out, STEPS, "unet_ema")
    assert relative_error(flat(ema, keys), flat(average, keys)) < 1e-4


def test_five_steps(run, base, mini):
    out, log = run
    compare(out, log, reference_steps(mini, Shards(base / "latents", "target_overlay"), "mse", 0), mini)


@pytest.mark.parametrize("kind", ["weighted", "focal"])
def test_five_steps_other_losses(kind, base, mini):
    """The mask as target, multi-resolution noise, more samples at the last timestep."""
    log = train(base, mini, base / kind, "--loss", kind, "--target", "mask", "--t-max-prob", 0.4, "--no-roofline")
    steps = reference_steps(mini, Shards(base / "latents", "target_mask"), kind, 0.9, 0.4)
    compare(base / kind, log, steps, mini)


@pytest.mark.parametrize("kind", ["l1", "dice"])
def test_five_steps_with_pixel_loss(kind, base, mini):
    """Back through the frozen VAE decoder. The gradient of L1 jumps where a pixel is right: there rounding decides its
    sign. So that one such pixel does not count in all later steps, each step starts from the weights under test."""
    out = base / f"pixel-{kind}"
    log = train(base, mini, out, "--pixel-loss", PIXEL_WEIGHT, "--pixel-loss-type", kind, "--multires-noise", 0,
                "--no-roofline")  # fmt: skip
    shards = Shards(base / "latents", "target_overlay")
    compare(out, log, reference_steps(mini, shards, "mse", 0, pixel=kind, start_of=lambda k: weights_at(out, k)), mini)


@pytest.mark.parametrize("name", ["model", "checkpoint-000003"])
def test_diffusers_loads_it(run, name):
    out, _ = run
    pipeline = DiffusionPipeline.from_pretrained(out / name)
    assert pipeline.unet.config.in_channels == 8
    assert isinstance(pipeline.vae, AutoencoderKL) and isinstance(pipeline.scheduler, DDIMScheduler)
    average = UNet2DConditionModel.from_pretrained(out / name / "unet_ema")
    assert average.state_dict().keys() == pipeline.unet.state_dict().keys()


def test_log(run):
    _, log = run
    assert [line["kind"] for line in log] == ["run", "validation"] + STEPS * ["step"] + ["validation"]
    first, steps, last = log[0], log[2:-1], log[-1]
    assert first["first_step"] == 0 and first["seed"] == SEED and first["loss"] == "mse" and first["samples"] == 40
    assert first["parameters"] > 1e6 and len(first["vae_sha256"]) == 64
    for k, line in enumerate(steps, 1):
        assert line.keys() == {
            "kind", "step", "loss", "grad_norm", "lr", "samples_per_s", "world", "seconds", "roofline"
        }  # fmt: skip
        assert line["step"] == k and line["world"] == 1 and line["samples_per_s"] > 0
        # The share of the roofline: speed over that of the peaks, which may be too low if the machine was busy then.
        assert line["roofline"] / line["samples_per_s"] == pytest.approx(steps[0]["roofline"] / steps[0]["samples_per_s"], 1e-2)
    assert last["step"] == STEPS and {"loss", "giou_seen", "miou_seen", "ciou_seen", "empty", "full"} <= last.keys()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def fields(message):
    """(number, value) of the fields of a protocol buffer message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at : at + size]
        at += size


def test_tensorboard(run):
    out, log = run
    (path,) = (out / "tensorboard").iterdir()
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        head, body = data[at : at + 8], data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 8)[0] == masked(head)
        if length < 1000:  # slow in Python
            assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(body)
        events.append(dict(fields(body)))
        at += 16 + length
    assert events[0][3] == b"brain.Event:2"
    scalars, pictures = {}, []
    for event in events:
        if 5 in event:
            value = dict(fields(dict(fields(event[5]))[1]))
            if 2 in value:
                scalars[value[1].decode(), event[2]] = struct.unpack("<f", value[2])[0]
            else:
                pictures.append(dict(fields(value[4]))[4])
    for line in log:
        if line["kind"] == "step":
            for tag in ("loss", "grad_norm", "lr"):
                assert scalars["train/" + tag, line["step"]] == pytest.approx(line[tag], rel=1e-6)
    assert scalars["validation/giou_seen", STEPS] == pytest.approx(log[-1]["giou_seen"])
    assert len(pictures) == 2 and all(p.startswith(b"\x89PNG") for p in pictures)
