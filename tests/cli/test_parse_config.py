import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.cli.parse_config import field_name, parse_config_values, parse_excludes, parse_field, parse_pins
from meshwright.costmodels.parallel import CONFIG_FIELDS, CpComm, Recompute, Schedule, recompute_label
from meshwright.hardware_profiles.errors import InvalidProblemError


def test_pins_take_lists_alternatives_and_repeats():
    assert parse_pins(["tp=4,pp=2|4", "micro-batch=1"], "--pin") == {"tp": (4,), "pp": (2, 4), "micro_batch_size": (1,)}


def test_words_of_enumerations():
    assert parse_field("schedule", "gpipe", "-f") == {"schedule": Schedule.GPIPE}
    assert parse_field("cp_comm", "Ulysses", "-f") == {"cp_comm": CpComm.ULYSSES}
    assert parse_field("sp", "on", "-f") == {"sequence_parallel": 1}
    assert parse_field("zero", "0", "-f") == {"zero_stage": 0}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("none", {"recompute": 0}),
        ("full", {"recompute": Recompute.FULL}),
        ("full/12", {"recompute": Recompute.FULL, "recompute_layers": 12}),
        ("selective", {"recompute": Recompute.CORE_ATTENTION}),
        ("attn+act", {"recompute": Recompute.CORE_ATTENTION | Recompute.FFN_ACTIVATION}),
    ],
)
def test_recompute(text, fields):
    assert parse_field("recompute", text, "-f") == fields


@given(st.sets(st.sampled_from([b for b in Recompute if b not in (Recompute.NONE, Recompute.FULL)]), min_size=1))
def test_recompute_labels_are_read_back(bits):
    mask = sum(bits)
    assert parse_field("recompute", recompute_label(mask), "-f") == {"recompute": mask}


@given(st.sampled_from([f for f in CONFIG_FIELDS if f in ("tp", "cp", "ep", "pp", "vp", "dp")]), st.integers(1, 4096))
def test_degrees_are_read_back(name, value):
    assert parse_config_values([f"{name}={value}"], "-f") == {name: value}


def test_excludes_are_conjunctions():
    assert parse_excludes(["tp=8,pp=4", "vp=2"], "--exclude") == ({"tp": 8, "pp": 4}, {"vp": 2})


@pytest.mark.parametrize(
    "text",
    ["tp", "tp=", "=4", "tp=0", "tp=-1", "tp=four", "tp=2.5", "tpp=4", "schedule=fast", "recompute=some", "sp=2",
     "recompute=full/0", "tp=²", "tp=99999999999", "tp=" + "9" * 5000, "tp=4,tp=8", "tp=2|x"],
)  # fmt: skip
def test_bad_pins_name_the_flag(text):
    with pytest.raises(InvalidProblemError, match=r"^--pin: "):
        parse_pins([text], "--pin")


def test_near_names_are_offered():
    with pytest.raises(InvalidProblemError, match="Did you mean"):
        field_name("micro_batch_sz", "--pin")


@given(st.text())
def test_garbage_is_a_sentence_or_integers(text):
    try:
        pins = parse_pins([text], "--pin")
    except InvalidProblemError as error:
        assert str(error).startswith("--pin: ")
    else:
        assert all(isinstance(v, int) and v >= 0 for values in pins.values() for v in values)
