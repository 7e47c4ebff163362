#!/usr/bin/env python3
"""Facts about the CUDA kernels without a GPU, from the machine code, the PTX and the plan of a training step.

    bench/kernel_report.py check BUILD...     registers, stack and local memory, tensor-core instructions of the objects in
                                              build/cuda-PRECISION; fails on a violation
    bench/kernel_report.py profile [--only TEXT]
                                              counts of single layers at SD2's shapes in the PTX simulator, with targets
    bench/kernel_report.py report BUILD...    all of it, with the roofline of a step: docs/KERNELS.md

`make nvcc-check`, `make kernel-profile` and `make kernel-report` build their inputs and call them.
"""
import argparse
import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ARCHS = ("sm_80", "sm_89", "sm_90", "sm_120")

# What one SM holds at once: warps, blocks, 32-bit registers, bytes of shared memory (1 KB of which each block reserves).
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SM = {
    "sm_80": (64, 32, 65536, 164 << 10),
    "sm_89": (48, 24, 65536, 100 << 10),
    "sm_90": (64, 32, 65536, 228 << 10),
    "sm_120": (48, 24, 65536, 100 << 10),
}

# Ceilings: memory (bytes/s), then FLOP/s by unit as kernels/cost.h names them: cuBLASLt's best measured rate, tensor
# cores by mma.sync (on Hopper 62% of wgmma's), fp32.
# Data sheets (A100 SXM 40 GB, H100 SXM, RTX 4090; dense bf16 with fp32 accumulation); 271 and 795 TFLOP/s: largest
# bf16 GEMM rates seen on these cards.
Card = collections.namedtuple("Card", "memory gemm mma fp32")
CARDS = {
    "A100": Card(1555e9, 271e12, 312e12, 19.5e12),
    "H100": Card(3350e9, 795e12, 613e12, 66.9e12),
    "RTX 4090": Card(1008e9, 165.2e12, 165.2e12, 82.6e12),
}


def run(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def tool(name):
    """The path of a tool from `setup.sh --cuda`, else its name, to be found in PATH."""
    local = sorted(Path(".cuda").glob(f"lib/python3*/site-packages/nvidia/cu13/bin/{name}"))
    return str(local[-1]) if local else name


# ---- Machine code and PTX ---------------------------------------------------------------------------------------------

SASS = {  # counted instructions of the machine code
    "ldg": r"LDG\b",
    "ldg128": r"LDG\.\S*128",
    "stg": r"STG\b",
    "stg128": r"STG\.\S*128",
    "local": r"(LDL|STL)\b",
    "mma": r"HMMA\b",
    "ldmatrix": r"LDSM\b",
    "cp_async": r"LDGSTS\b",
}
PTX = {
    "ld128": r"ld\.global\S*\.v(4\.[a-z]32|2\.[a-z]64)",
    "st128": r"st\.global\S*\.v(4\.[a-z]32|2\.[a-z]64)",
    "mma": r"mma\.sync",
    "ldmatrix": r"ldmatrix",
    "cp_async": r"cp\.async\.c[ag]",
}
SASS_LINE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z]\S*)")


def counted(patterns, text, counts):
    for key, pattern in patterns.items():
        counts[key] += bool(re.match(pattern, text))


class Kernel:
    def __init__(self, mangled, file):
        self.mangled, self.file, self.name = mangled, file, mangled
        self.registers, self.stack, self.shared = {}, {}, {}  # by architecture
        self.sass = collections.defaultdict(collections.Counter)
        self.ptx = collections.Counter()
        self.threads = 0  # of its launch bounds


def read_resources(listing, kernel):
    arch = name = None
    for line in listing.splitlines():
        if found := re.match(r"arch = (sm_\d+)", line):
            arch = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            name = found[1]
        elif found := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            k = kernel(name)
            k.registers[arch], k.shared[arch] = int(found[1]), int(found[3])
            if int(arch[3:]) >= 90 and k.shared[arch]:
                k.shared[arch] -= 1 << 10  # includes what is reserved for each block
            k.stack[arch] = int(found[2]) + int(found[4])


def read_sass(path, arch, kernel):
    """The listing of one object may have tens of megabytes: grep keeps what is counted. arch: None for all."""
    words = r"Function :|code for sm_|\b(LDG|STG|LDL|STL|HMMA|LDSM|LDGSTS)\b"
    command = f"{tool('cuobjdump')} -sass {f'-arch {arch}' if arch else ''} {path} | grep -E '{words}'"
    k = None
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if found := SASS_LINE.match(line):
                counted(SASS, found[1], k.sass[arch])
            elif found := re.match(r"\s*Function : (\S+)", line):
                k = kernel(found[1])
            elif found := re.match(r"\s*code for (sm_\d+)", line):
                arch = found[1]


def read_ptx(listing, kernel):
    k = None
    for line in listing.splitlines():
        if found := re.match(r"(?:\.visible |\.weak )?\.entry (\w+)", line):
            k = kernel(found[1])
        elif found := re.match(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", line):
            k.threads = int(found[1]) * int(found[2] or 1) * int(found[3] or 1)
        elif k:
            text = line.strip().split(" ", 1)
            text = text[1] if text[0].startswith("@") and len(text) > 1 else line.strip()
            counted(PTX, text.lstrip("{ "), k.ptx)


def read_build(build, arch=None, lab=False):
    """The kernels of a build's objects, in order of file and name, with or without the kernel lab's. arch: machine code
    is read only for this architecture, and only where tensor-core instructions are required."""
    kernels = {}
    paths = sorted(Path(build, "kernels").glob("**/*.cu.o"))
    if lab:
        paths += sorted(Path(build, "bench", "lab").glob("*.cu.o"))
    for path in paths:
        file = str(path.relative_to(Path(build, "kernels" if "lab" not in path.parts else "bench")))[:-2]

        def kernel(mangled):
            return kernels.setdefault((file, mangled), Kernel(mangled, file))

        read_resources(run(tool("cuobjdump"), "-res-usage", str(path), stderr=subprocess.DEVNULL), kernel)
        if not arch or file in TENSOR:
            read_sass(path, arch, kernel)
        read_ptx(run(tool("cuobjdump"), "-ptx", str(path)), kernel)
    kernels = [k for k in kernels.values() if k.registers]
    names = run("c++filt", input="".join(k.mangled + "\n" for k in kernels)).splitlines()
    for k, name in zip(kernels, names):
        k.name = short_name(name)
    return sorted(kernels, key=lambda k: (k.file, k.name))


def short_name(name):
    """void backward_rows<5>(int, ...) -> backward_rows<5>"""
    name = re.sub(r"^void ", "", name.replace("(anonymous namespace)::", ""))
    depth = 0
    for i, c in enumerate(name):
        depth += {"<": 1, ">": -1}.get(c, 0)
        if c == "(" and depth == 0:
            name = name[:i]
            break
    return re.sub(r"\((?:int|bool|unsigned int)\)", "", name)


def resident_warps(arch, registers, threads, shared):
    """Warps of one SM that run at once, from the limits above. Registers are allocated to warps in units of 256, in a
    quarter of the SM each; shared memory is allocated to blocks in units of 128 bytes."""
    max_warps, max_blocks, all_registers, all_shared = SM[arch]
    warps = -(-threads // 32)
    by_registers = 4 * (all_registers // 4 // (-(-registers * 32 // 256) * 256)) // warps
    by_shared = all_shared // (-(-(shared + 1024) // 128) * 128)
    return warps * min(max_warps // warps, max_blocks, by_registers, by_shared)


# ---- Requirements ----------------------------------------------------------------------------------------------------

# Files with bf16 kernels for the tensor cores, and the instructions that each multiplying kernel must contain.
TENSOR = {"conv2d.cu": ("mma", "ldmatrix", "cp_async"), "attention.cu": ("mma", "ldmatrix", "cp_async")}


def broken_promises(kernels, precision):
    """A sentence for each violated requirement."""
    for k in kernels:
        for arch in k.registers:
            local = k.sass[arch]["local"] if arch in k.sass else 0
            if k.stack[arch] or local:
                yield (f"{k.file} {k.name} on {arch}: {k.stack[arch]} bytes of stack, {local} accesses to local memory "
                       "(spilled registers or an indexed array)")
    if precision != "bf16":
        return
    for file, instructions in TENSOR.items():
        ours = [k for k in kernels if k.file == file]
        if ours and not any(k.ptx["mma"] for k in ours):
            yield f"{file}: no kernel uses the tensor cores"
        for k in ours:
            for arch in k.sass if k.ptx["mma"] else ():
                for what in instructions:
                    if not k.ptx[what] or not k.sass[arch][what]:
                        yield f"{file} {k.name} on {arch}: mma without {what.replace('_', '.')}"


def not_built(kernels, archs):
    return [f"{k.file} {k.name}: not built for {a}" for k in kernels for a in archs if a not in k.registers]


def check(builds, archs):
    bad = 0
    for build in builds:
        precision = "bf16" if "-bf16" in build else "fp32"
        kernels = read_build(build, archs[0], lab=True)
        for k in kernels:
            registers = " ".join(f"{k.registers.get(a, '-'):>3}" for a in archs)
            print(f"{precision} {registers} registers on {' '.join(archs)}  {k.file} {k.name}")
        sentences = list(broken_promises(kernels, precision))
        sentences += not_built(kernels, archs)
        if not kernels:
            sentences.append(f"{build}: no kernels")
        for sentence in sentences:
            print(f"{precision}: {sentence}")
        bad += len(sentences)
    return bad == 0


# ---- Counts of the PTX in the simulator -------------------------------------------------------------------------------

# Layer and sizes as `profile` takes them, function, kind of its targets. The shapes are SD2's, those of optimizer 4 of its
# 866 M parameters; dice has one picture of 512 x 512.
Case = collections.namedtuple("Case", "layer sizes function kind")
CASES = (
    Case("conv2d", "2,64,64,320,320,3,1", "conv2d_forward", "conv"),
    Case("conv2d_dgrad", "2,64,64,320,320,3,1", "conv2d_backward", "conv"),
    Case("conv2d_wgrad", "2,64,64,320,320,3,1", "conv2d_backward", "conv"),
    Case("attention", "2,10,1024,1024,64,0", "attention_forward", "attention"),
    Case("attention", "2,10,1024,1024,64,0", "attention_backward", "attention"),
    Case("groupnorm", "2,4096,320,32,1", "groupnorm_forward", "stream"),
    Case("groupnorm", "2,4096,320,32,1", "groupnorm_backward", "stream"),
    Case("layernorm", "8192,320", "layernorm_forward", "stream"),
    Case("layernorm", "8192,320", "layernorm_backward", "stream"),
    Case("geglu", "8192,1280", "geglu_forward", "stream"),
    Case("geglu", "8192,1280", "geglu_backward", "stream"),
    Case("activation", "5242880", "silu_forward", "stream"),
    Case("activation", "5242880", "silu_backward", "stream"),
    Case("upsample", "2,32,32,640", "upsample_nearest_forward", "stream"),
    Case("upsample", "2,32,32,640", "upsample_nearest_backward", "stream"),
    Case("concat", "8192,320,320", "concat_forward", "stream"),
    Case("concat", "8192,320,320", "concat_backward", "stream"),
    Case("elementwise", "2621440", "add_forward", "stream"),
    Case("elementwise", "2621440", "cast_to_floatX", "mixed"),
    Case("optimizer", "4194304", "grad_norm", "stream"),
    Case("optimizer", "4194304", "adam_update", "mixed"),
    Case("optimizer", "4194304", "ema_update", "stream"),
    Case("dice", "1,262144", "dice_loss", "stream"),
)

TIMES = {"conv": 1.25, "attention": 1.5}  # largest bound time over the time of the useful FLOPs
BOUND = {"conv": ("tensor",), "attention": ("tensor", "SFU"), "stream": ("DRAM",), "mixed": ("DRAM",)}
# Least mean of bytes per lane and access. mixed: four elements per access, 16 bytes of floats and 8 of bf16.
WIDTH = {"stream": 15.5, "mixed": 13}
MAIN = 0.05  # kernels, loads and stores with a smaller share of the traffic are listed, but have no targets


def profile_case(program, case):
    """The function's kernels as the simulator counted them, and what the function reports to the trace. The result is
    kept beside the program until the program is rebuilt."""
    kept = Path(f"{program}-{case.layer}-{case.sizes}-{case.function}.json")
    if not kept.exists() or kept.stat().st_mtime < Path(program).stat().st_mtime:
        temporary = f"{kept}.{os.getpid()}"
        said = run(program, case.layer, case.sizes, case.function, env=dict(os.environ, SIM_PROFILE=temporary))
        result = json.loads(Path(temporary).read_text())
        os.remove(temporary)
        result["trace"] = json.loads(said.splitlines()[-1])
        kept.write_text(json.dumps(result))
    return json.loads(kept.read_text())


def bytes_per_lane(kernel):
    """Mean over the accesses to global memory, weighted by the sectors that each moves."""
    moved = width = 0
    for line in kernel["lines"]:
        if "sectors" not in line:
            continue
        if found := re.match(r"cp\.async\S* \[[^]]*\], \[[^]]*\], (\d+)", line["text"]):
            size = int(found[1])
        else:
            found = re.match(r"\S*?(?:\.v(\d))?\.[a-z](\d+) ", line["text"])
            size = int(found[1] or 1) * int(found[2]) // 8
        moved += line["sectors"]
        width += size * line["sectors"]
    return width / moved if moved else 0


def missed(case, kernel, is_main):
    """The targets that a kernel misses, in words."""
    if not is_main:
        return []
    out = []
    memory, bound = kernel["global"], kernel["bound"]["A100"]
    if bound["by"] not in BOUND[case.kind]:
        out.append(f"bound by {bound['by']}")
    if case.kind in WIDTH:
        sectors = memory["load"]["sectors"] + memory["store"]["sectors"]
        for way in ("load", "store"):
            if memory[way]["sectors"] > MAIN * sectors and memory[way]["efficiency"] < 0.98:
                out.append(f"{way}s use {memory[way]['efficiency']:.2f} of a sector")
        if bytes_per_lane(kernel) < WIDTH[case.kind]:
            out.append(f"{bytes_per_lane(kernel):.1f} bytes per lane")
        if memory["reread"] > 1.05:
            out.append(f"reads {memory['reread']:.2f} times")
    elif kernel["shared"]["conflict"] > 1.05:
        out.append(f"bank conflicts {kernel['shared']['conflict']:.2f}")
    return out


Row = collections.namedtuple("Row", "case kernel main misses")
Outcome = collections.namedtuple("Outcome", "case rows us ratio all misses")


def judge(case, result):
    """ratio, all: the bound time of the main kernels, and of all, over that of the useful FLOPs or bytes."""
    kernels = sorted(result["kernels"], key=lambda k: -k["bound"]["A100"]["us"])
    us = sum(k["bound"]["A100"]["us"] for k in kernels)
    traffic = sum(k["global"]["dram_bytes"] for k in kernels)
    rows, misses = [], []
    for k in kernels:
        share = k["global"]["dram_bytes"] / traffic if case.kind in WIDTH else k["bound"]["A100"]["us"] / us
        # Small kernels that prepare or add up run in addition to the tensor-core kernels; memory limits them.
        tensor = case.kind in WIDTH or any(n.startswith("mma") for n in k["flops"])
        is_main = share >= MAIN and tensor
        rows.append(Row(case, k, is_main, missed(case, k, is_main)))
        misses += rows[-1].misses
    trace = result["trace"]
    card = CARDS["A100"]
    useful = trace["bytes"] / card.memory if case.kind in WIDTH else trace["flops"] / getattr(card, trace["unit"])
    ratio = 1e-6 * sum(r.kernel["bound"]["A100"]["us"] for r in rows if r.main) / useful
    if case.kind in TIMES and ratio > TIMES[case.kind]:
        misses.append(f"{ratio:.2f} times the useful time")
    return Outcome(case, rows, us, ratio, 1e-6 * us / useful, misses)


def profile(program, only=""):
    for case in CASES:
        if only in f"{case.layer} {case.function}":
            yield judge(case, profile_case(program, case))


def dash(value, form):
    return format(value, form) if value else "-"


PROFILE_COLUMNS = (
    "function", "layer and shape", "kernel", "load", "store", "B/lane", "reread", "banks", "bound", "us", "ratio", "all", "targets",
)


def profile_rows(outcome):
    case = outcome.case
    for i, row in enumerate(outcome.rows):
        k = row.kernel
        memory, bound = k["global"], k["bound"]["A100"]
        yield (
            "" if i else case.function,
            "" if i else f"{case.layer} {case.sizes}",
            short_name(k["name"]),
            dash(memory["load"]["efficiency"], ".2f"),
            dash(memory["store"]["efficiency"], ".2f"),
            dash(bytes_per_lane(k), ".1f"),
            dash(memory["reread"], ".2f"),
            dash(k["shared"]["conflict"], ".2f"),
            bound["by"],
            f"{bound['us']:.2f}",
            "" if i else f"{outcome.ratio:.2f}",
            "" if i else f"{outcome.all:.2f}",
            "; ".join(row.misses) or ("met" if row.main else "-"),
        )


# ---- The step ---------------------------------------------------------------------------------------------------------


def seconds(row, card):
    """Time of one launch at the roofline."""
    return max(row["bytes"] / card.memory, row["flops"] / getattr(card, row["unit"]))


def samples_per_second(plan, micro_steps, name):
    """Every micro-step after the first reads the parameter gradients once more."""
    card = CARDS[name]
    update = sum(r["launches"] * seconds(r, card) for r in plan["step"] if r["scope"] == "update")
    micro = sum(r["launches"] * seconds(r, card) for r in plan["step"]) - update
    again = 4 * plan["parameters"] / card.memory
    return micro_steps * plan["batch"] / (micro_steps * micro + (micro_steps - 1) * again + update)


def by_function(rows):
    """[(function, launches, bytes, flops, {card: seconds})], the slowest on an A100 first."""
    table = {}
    for row in rows:
        entry = table.setdefault(row["function"], [0, 0.0, 0.0, collections.Counter()])
        n = row["launches"]
        entry[0] += n
        entry[1] += n * row["bytes"]
        entry[2] += n * row["flops"]
        for name, card in CARDS.items():
            entry[3][name] += n * seconds(row, card)
    return sorted(((f, *e) for f, e in table.items()), key=lambda e: -e[4]["A100"])


# ---- The document -----------------------------------------------------------------------------------------------------


def markdown(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(v) for v in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def each(values):
    """One value where all architectures agree, else all of them."""
    values = [str(v) for v in values]
    return values[0] if len(set(values)) == 1 else "/".join(values)


def of(part, whole):
    return f"{part} of {whole}" if whole else "-"


def kernel_rows(kernels, launches):
    for k in kernels:
        archs = [a for a in ARCHS if a in k.registers]
        launch = launches.get(k.mangled)
        dynamic = launch["smem_dynamic"] if launch else 0
        threads = launch["block"][0] * launch["block"][1] * launch["block"][2] if launch else k.threads
        warps = "-"
        if threads:
            warps = each(resident_warps(a, k.registers[a], threads, k.shared[a] + dynamic) for a in archs)
        yield (
            f"`{k.name}`",
            each(k.registers[a] for a in archs),
            each(k.stack[a] + k.sass[a]["local"] for a in archs),
            each(k.shared[a] for a in archs) + (f" + {dynamic}" if launch else " + ?"),
            (str(threads) if launch else f"<= {threads}") if threads else "-",
            warps,
            each(of(k.sass[a]["ldg128"], k.sass[a]["ldg"]) for a in archs),
            each(of(k.sass[a]["stg128"], k.sass[a]["stg"]) for a in archs),
            *(f"{k.ptx[x] or '-'} : {each(k.sass[a][x] or '-' for a in archs)}" for x in ("mma", "ldmatrix", "cp_async")),
        )


KERNEL_COLUMNS = (
    "kernel", "registers", "spills", "shared", "threads", "warps/SM", "128-bit LDG", "128-bit STG", "mma", "ldmatrix",
    "cp.async",
)


def step_section(plan):
    out = []
    for key, title in (("step", f"One training step of the UNet: batch {plan['batch']}, "
                                f"{plan['size']}x{plan['size']} latents"),
                       ("vae", f"The VAE, forward and backward: batch {plan['batch']}, "
                               f"{8 * plan['size']}x{8 * plan['size']} pixels")):
        rows = by_function(plan[key])
        total = [sum(r[i] for r in rows) for i in (1, 2, 3)]
        least = {c: sum(r[4][c] for r in rows) for c in CARDS}
        body = [
            (f"`{f}`", n, f"{1e-9 * b:.3f}", f"{1e-12 * fl:.4f}", *(f"{1e3 * t[c]:.3f}" for c in CARDS),
             f"{100 * t['A100'] / least['A100']:.1f}%")
            for f, n, b, fl, t in rows
        ]
        body.append(("**sum**", total[0], f"{1e-9 * total[1]:.1f}", f"{1e-12 * total[2]:.3f}",
                     *(f"**{1e3 * least[c]:.2f}**" for c in CARDS), "100%"))
        columns = ("function", "launches", "GB", "TFLOP", *(f"{c}, ms" for c in CARDS), "share (A100)")
        out += [f"### {title}\n", markdown(columns, body)]
        layers = collections.Counter()
        for r in rows:
            layers[re.sub("_(forward|backward)$", "", r[0])] += r[4]["A100"]
        shares = ", ".join(f"{l} {100 * s / least['A100']:.1f}%" for l, s in layers.most_common(8))
        floor = ", ".join(f"{1e3 * total[1] / c.memory:.2f} ms on {n}" for n, c in CARDS.items())
        out.append(f"Shares of the layers on an A100: {shares}. Its memory traffic alone takes {floor}.\n")
        if key == "step":
            speeds = [", ".join(f"{samples_per_second(plan, n, c):.1f} on {c}" for c in CARDS) for n in (1, 16)]
            out.append(f"At the speed of light that is {speeds[0]} samples per second; with 16 micro-steps to an update "
                       f"(batch {16 * plan['batch']}) {speeds[1]}.\n")
            out.append(memory_floor(plan))
    return "\n".join(out)


def memory_floor(plan):
    p, e = plan["parameters"], plan["element_bytes"]
    rows = [("weights", e * p), ("masters, fp32", 4 * p if e == 2 else 0), ("Adam's moments, fp32", 8 * p),
            ("activations and gradients", plan["arena_bytes"]), ("workspace", plan["workspace_bytes"])]
    rows.append(("**sum**", sum(b for _, b in rows)))
    return ("The minimum memory of this step, without recomputation:\n\n"
            + markdown(("what", "GB"), [(w, f"{1e-9 * b:.2f}") for w, b in rows]))


INTRODUCTION = """# The kernels, without a GPU

Written by `make kernel-report` (bench/kernel_report.py); nothing here was measured on a GPU. It has three sources: nvcc's
machine code ({archs}), read with cuobjdump; the plan of a training step, in which every function of
kernels/kernels.h reports its minimum traffic and its useful FLOPs; and exact counts of the PTX of single layers, run in
the simulator `tests/ptx/sim`.

## How to read this page

It is a work of reference. Each section answers one question:

| question | section |
|---|---|
| Where does a training step have to spend its time, and what would a faster kernel gain? | [The speed of light](#the-speed-of-light) |
| How close can one layer's kernels get to that, and what limits them? | [Counts of the real PTX](#counts-of-the-real-ptx) |
| What did the compiler make of a kernel? | [Registers, shared memory, instructions](#registers-shared-memory-instructions), by file; bf16 first, then fp32 |

Follow one function, such as `conv2d_backward`, through them:

1. Its row of the training step gives the least time for all its launches, and their share. A function with a share of
   10% that becomes twice as fast saves 5% of the step at best; one with 0.1% is not worth the work.
2. Its rows of counts, at one shape, give **all**: the least time of its kernels over that of the useful work. 1.00 is
   perfect; at 1.30 the kernels themselves forbid to come closer than 30%. Waiting for memory, gaps between launches and
   uneven blocks come on top: only a GPU shows them.
3. **bound** says why. `DRAM`: load, store and B/lane show unused bytes, reread what is loaded twice. `L1/smem`:
   banks shows conflicts. `tensor`: the tensor cores are busy with products, and only fewer products help. `SFU`:
   exponentials. `issue`: too many instructions of other kinds.
4. Its rows of machine code should have no spills. Where DRAM is the bound, few warps/SM can mean too few loads in
   flight, and registers or shared memory say what limits the warps.
5. After a change, `make kernel-report` writes this page again and `git diff` shows what has changed.

For times, use `cocogold bench` and `make gpu-check` ([bench/README.md](../bench/README.md)).

"""

STEP = """## The speed of light

Each launch takes at least max(bytes / memory rate, FLOPs / compute rate); the sum over all launches is the step's speed of
light. Ceilings: {ceilings}. The ceiling is the best known rate of cuBLASLt's products for linear
(and for attention with heads above 160, which calls it), the rate of the tensor cores by `mma.sync` (on Hopper 62% of
`wgmma`'s) for conv2d and attention, and fp32 for all others, as kernels/cost.h says for each function.

"""

PROFILE = """## Counts of the real PTX

One layer each, in bf16, on the simulator's A100 (108 SMs, 1555 GB/s, 312 TFLOP/s), with all caches cold.

- **load, store**: share of the moved 32-byte sectors that is used. **B/lane**: bytes per lane and access, weighted by
  sectors. **reread**: loaded sectors over distinct ones. **banks**: shared-memory wavefronts over those without
  conflicts. **bound, us**: the unit that needs the longest time, and its minimum time. **ratio**: minimum time of the
  kernels with targets, over the time of the function's useful FLOPs at 312 TFLOP/s (conv2d, attention) or of its
  minimum traffic at 1555 GB/s (the others). **all**: the same for all kernels of the function.
- Targets. Streaming kernels: load and store >= 0.98, 16 bytes per lane (15.5 on average, since statistics and biases are
  floats; kernels that read floats and write bf16 access four elements, 8 bytes of bf16: 13), reread <= 1.05 within a
  kernel, bound by DRAM. conv2d: banks <= 1.05, bound by the tensor cores, ratio <= 1.25.
  attention: banks <= 1.05, bound by tensor cores or the special function unit, ratio <= 1.5. Only the main kernels of a
  function have targets. The others ("-": in conv2d and attention those without tensor cores, which prepare or add up;
  else those with less than 5% of the traffic) only count in "all". Loads or stores that are less than 5% of a kernel's
  traffic (a sum per block) have no targets either.

"""

KERNELS = """## Registers, shared memory, instructions

One row per kernel; where architectures differ: {archs}. **spills**: bytes of stack plus accesses to local memory in the
machine code. **shared**: static + dynamic bytes, the latter from the launches above ("?": not launched there).
**threads**: of these launches, else the launch bound. **warps/SM**: resident warps, limited by registers, shared memory,
threads and blocks, of {limits}. **128-bit LDG, STG**: their number among the
loads and stores of global memory in the machine code. **mma, ldmatrix, cp.async**: number in the PTX : in the machine
code.

"""


def read_all_archs(build):
    """The kernels of a build; ends unless each has every architecture that the document names."""
    kernels = read_build(build)
    if missing := not_built(kernels, ARCHS) if kernels else ["no kernels"]:
        sys.exit(f"kernel_report.py: {build}: {missing[0]}, expected {', '.join(ARCHS)} "
                 "(nvcc of CUDA 12.8 or newer, and CUDA_ARCHS not set)")
    return kernels


def report(builds, program, plan_file, path):
    builds = {build.rstrip("/").rsplit("-", 1)[1]: read_all_archs(build) for build in builds}
    out = [INTRODUCTION.format(archs=", ".join(ARCHS))]
    ceilings = "; ".join(
        f"{n} {c.memory / 1e9:.0f} GB/s, {c.gemm / 1e12:.0f} TFLOP/s (GEMM), {c.mma / 1e12:.0f} (own tensor-core "
        f"kernels), {c.fp32 / 1e12:.1f} (fp32)" for n, c in CARDS.items())
    plan = json.loads(Path(plan_file).read_text())
    out += [STEP.format(ceilings=ceilings), step_section(plan), PROFILE]
    outcomes = list(profile(program))
    out.append(markdown(PROFILE_COLUMNS, [r for o in outcomes for r in profile_rows(o)]))
    met = sum(not o.misses for o in outcomes)
    out.append(f"\n{met} of {len(outcomes)} functions meet their targets."
               + "".join(f"\n- {o.case.function} ({o.case.layer} {o.case.sizes}): {', '.join(o.misses)}"
                         for o in outcomes if o.misses) + "\n\n")
    launches = {r.kernel["mangled"]: r.kernel for o in outcomes for r in o.rows}
    limits = ", ".join(f"{SM[a][0]} ({a})" for a in ARCHS)
    out.append(KERNELS.format(archs="/".join(ARCHS), limits=limits))
    for precision, kernels in builds.items():
        broken = list(broken_promises(kernels, precision))
        out.append(f"### {precision}: {len(kernels)} kernels, {len(broken)} violations\n\n")
        out += [f"- {sentence}\n" for sentence in broken] + ["\n"] * bool(broken)
        for file in sorted({k.file for k in kernels}):
            rows = list(kernel_rows([k for k in kernels if k.file == file], launches if precision == "bf16" else {}))
            out.append(f"#### kernels/{file}\n\n" + markdown(KERNEL_COLUMNS, rows) + "\n")
    Path(f"{path}.part").write_text("".join(out).rstrip("\n") + "\n")
    os.rename(f"{path}.part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "profile", "report"))
    parser.add_argument("builds", nargs="*", help="build/cuda-PRECISION")
    parser.add_argument("--archs", default=" ".join(ARCHS), help="architectures that every kernel must have")
    parser.add_argument("--program", default="build/ptx-bf16/profile")
    parser.add_argument("--plan", default="build/sd2-plan.json", help="file of cocogold bench plan --json")
    parser.add_argument("--only", default="", help="profile: layers or functions with this text in their names")
    parser.add_argument("--output", default="docs/KERNELS.md")
    o = parser.parse_intermixed_args()
    if o.what == "check":
        sys.exit(not check(o.builds, o.archs.split()))
    if o.what == "report":
        report(o.builds, o.program, o.plan, o.output)
        return
    bad = 0
    for outcome in profile(o.program, o.only):
        if outcome.rows:
            print(f"{outcome.case.function} ({outcome.case.layer} {outcome.case.sizes}): "
                  f"{outcome.us:.2f} us, ratio {outcome.ratio:.2f}, with all kernels {outcome.all:.2f}: "
                  f"{', '.join(outcome.misses) or 'met'}", flush=True)
            for row in profile_rows(outcome):
                print("    " + "  ".join(f"{v:<{w}}" for v, w in zip(row[2:], (34, 5, 5, 5, 6, 6, 8, 8, 5, 5, 0))))
        bad += bool(outcome.misses)
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
