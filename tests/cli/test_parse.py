import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cli.parse import BYTE_UNITS, COUNT_SUFFIXES, parse_count, parse_memory, parse_range, parse_words
from meshwright.hardware_profiles.errors import InvalidProblemError


@pytest.mark.parametrize(
    ("text", "value"),
    [("15T", 15e12), ("300B", 300e9), ("300b", 300e9), ("1.5e12", 1.5e12), ("4_000_000", 4e6), ("7", 7.0), ("2K", 2e3)],
)
def test_counts(text, value):
    assert parse_count(text, "--tokens") == value


@pytest.mark.parametrize(
    "text", ["", "T", "15TT", "-1", "-1T", "0", "0T", "nan", "inf", "1e999", "15 trillion", "1,5T"]
)
def test_bad_counts_name_the_flag(text):
    with pytest.raises(InvalidProblemError, match=r"^--tokens: .*\.$"):
        parse_count(text, "--tokens")


@given(st.floats(0.001, 1e6), st.sampled_from(sorted(COUNT_SUFFIXES)), st.booleans())
def test_counts_round_trip(number, suffix, lower):
    text = f"{number:.9f}{suffix.lower() if lower else suffix}"
    assert math.isclose(parse_count(text, "-t"), number * COUNT_SUFFIXES[suffix], rel_tol=1e-6)


@pytest.mark.parametrize(
    ("text", "value"),
    [("70GB", 70e9), ("64GiB", 64 * 2**30), ("64gib", 64 * 2**30), ("90%", 72e9), ("100%", 80e9), ("0.5 TB", 5e11)],
)
def test_memory(text, value):
    assert parse_memory(text, "--max-memory", device_bytes=80e9) == value


@pytest.mark.parametrize("text", ["70", "70G", "70GBs", "0GB", "0%", "101%", "-5GB", "GB", "", "1e400GB"])
def test_bad_memory_names_the_flag(text):
    with pytest.raises(InvalidProblemError, match=r"^--max-memory: .*\.$"):
        parse_memory(text, "--max-memory", device_bytes=80e9)


@given(st.floats(0.01, 1e5), st.sampled_from(sorted(BYTE_UNITS)))
def test_memory_units(number, unit):
    value = parse_memory(f"{number:.6f}{unit}", "-m", device_bytes=1.0)
    assert math.isclose(value, number * BYTE_UNITS[unit], rel_tol=1e-4)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_ranges(low, more):
    assert parse_range(f"{low}..{low + more}", "--nodes") == (low, low + more)
    assert parse_range(str(low), "--nodes") == (low, low)


@pytest.mark.parametrize(
    "text", ["", "0", "0..4", "8..4", "1...4", "1..", "..4", "-1", "a..b", "1.5", "1-4", "²", "9" * 5000]
)
def test_bad_ranges_name_the_flag(text):
    with pytest.raises(InvalidProblemError, match=r"^--nodes: .*\.$"):
        parse_range(text, "--nodes")


@given(st.text())
def test_garbage_is_a_sentence_or_a_finite_number(text):
    for call in (
        lambda: parse_count(text, "-f"),
        lambda: parse_memory(text, "-f", device_bytes=80e9),
        lambda: parse_range(text, "-f")[0],
    ):
        try:
            value = call()
        except InvalidProblemError as error:
            assert str(error).startswith("-f: ")
        else:
            assert math.isfinite(value) and value > 0


def test_words_keep_order_and_drop_repeats():
    assert parse_words(["fp8,offload", "fp8", " , x "]) == ("fp8", "offload", "x")
