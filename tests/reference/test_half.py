"""util/half.h against numpy's conversions, bit for bit."""

import os
import subprocess

import numpy as np
import pytest

from conftest import ROOT

SEED = int(os.environ.get("COCOGOLD_SEED", 1))


@pytest.fixture(scope="module")
def convert():
    path = "build/cpu-fp32/tests/util/half"
    subprocess.run(["make", "-s", "BACKEND=cpu", "PRECISION=fp32", path], cwd=ROOT, check=True, capture_output=True)

    def run(direction, values, dtype):
        result = subprocess.run([ROOT / path, direction], input=values.tobytes(), capture_output=True, check=True)
        return np.frombuffer(result.stdout, dtype)

    return run


def check(convert, bits):
    """float32 of these bits to half; numpy warns of overflow to infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected = bits.view(np.float32).astype(np.float16).view(np.uint16)
    found = convert("to_half", bits, np.uint16)
    wrong = np.flatnonzero(found != expected)
    first = [(hex(bits[i]), hex(found[i]), hex(expected[i])) for i in wrong[:5]]
    assert found.shape == expected.shape and not len(wrong), f"{len(wrong)} differ: {first}"
    print(f"{len(bits)} floats to half: equal bits, {np.count_nonzero(np.isnan(bits.view(np.float32)))} of them NaN")


def test_all_halves_both_ways(convert):
    halves = np.arange(65536, dtype=np.uint16)
    floats = halves.view(np.float16).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(convert("to_float", halves, np.uint32), floats)
    np.testing.assert_array_equal(convert("to_half", floats, np.uint16), halves)
    print("65536 halves to float and back: equal bits, infinities and 2046 NaNs included")


def test_floats_around_every_border(convert):
    """Each half, the middle to the next, and what lies one and two bits beside both, with both signs."""
    with np.errstate(invalid="ignore"):
        halves = np.arange(0x7C02, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves[0x7C00] = 65536  # where infinity begins, and the next
    halves[0x7C01] = 65536 + 64
    middles = (halves[:-1] + halves[1:]) / 2
    bits = np.concatenate([halves, middles]).view(np.uint32).astype(np.int64)
    bits = (bits[:, None] + np.arange(-2, 3)).clip(0).astype(np.uint32).ravel()
    check(convert, np.concatenate([bits, bits | 0x80000000]))


def test_random_bits(convert):
    random = np.random.default_rng(SEED)
    check(convert, random.integers(0, 1 << 32, 2_000_000, dtype=np.uint32))
    exponents = random.integers(100, 145, 2_000_000, dtype=np.uint32) << 23  # from below all halves to beyond
    check(convert, exponents | random.integers(0, 1 << 32, 2_000_000, dtype=np.uint32) & 0x807FFFFF)


def test_nans_of_every_mantissa(convert):
    """One float for each upper half of a NaN, with low bits set and clear."""
    upper = np.arange(0x7F80, 0x8000, dtype=np.uint32) << 16
    bits = np.concatenate([upper | low for low in (0, 1, 0x1FFF, 0x2000, 0x8000, 0xFFFF)])
    check(convert, np.concatenate([bits, bits | 0x80000000]))
