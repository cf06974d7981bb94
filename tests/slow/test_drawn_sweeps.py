"""Sweep files drawn at random, whole and damaged: read, with values that a command can be given, or refused."""

import math
import os
import sys

import pytest
import yaml
from refusal import check_sentence

from metasum.errors import UsageError
from metasum.sweeps.distributions import _KINDS, _QUANTISED, EDGE
from metasum.sweeps.sweep_file import read_sweep_file

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
EXAMPLES = int(os.environ.get("EXAMPLES", "400"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

JUNK = st.sampled_from([None, True, "", "x", "1e-3", -1, 0, 10**400, 1e308, -1e308, 5e-324, math.nan, math.inf, [], {}])
NUMBERS = st.one_of(st.integers(-3, 300), st.floats(-400, 800), JUNK)
VALUES = st.lists(st.one_of(NUMBERS, st.text(max_size=3), st.lists(st.integers(), max_size=2)), max_size=4)
KINDS = st.sampled_from([*_KINDS, *(f"q_{name}" for name in _QUANTISED)])
GOOD_NUMBERS = {
    "min": st.integers(1, 3),
    "max": st.integers(4, 9) | st.just(2**52),
    "mu": st.floats(-3, 3) | st.just(700.0),
    "sigma": st.floats(0.1, 30),
    "q": st.sampled_from([1, 0.5, 1e-300]),
    "a": st.floats(0.5, 4),
    "b": st.floats(0.5, 4),
    "value": st.integers() | st.text(max_size=3),
    "values": st.lists(st.integers() | st.booleans() | st.floats(), min_size=1, max_size=4),
    "probabilities": st.just([1.0]),
    "parameters": st.just({}),
}


@st.composite
def parameters(draw):
    """One that is likely to be good; or with something odd, too much or missing."""
    kind = draw(KINDS)
    needed = [*_KINDS.get(kind.removeprefix("q_"), ((), None))[0], *(["q"] if kind.startswith("q_") else [])]
    asked = {"distribution": kind, **{key: draw(GOOD_NUMBERS[key]) for key in needed}}
    change = draw(st.integers(0, 11))
    if change == 0:
        asked[draw(st.sampled_from([*GOOD_NUMBERS]))] = draw(NUMBERS | VALUES)
    elif change == 1:
        asked[draw(st.sampled_from([*asked]))] = draw(NUMBERS)
    elif change == 2:
        asked.pop(draw(st.sampled_from([*asked])))
    return asked


GOOD = {"method": "random", "command": ["metasum", "train", "${args}"], "metric": {"name": "x", "goal": "maximize"}}


@st.composite
def sweeps(draw):
    """A sweep file's text: of one that is likely to be good, perhaps with something odd, perhaps damaged."""
    names = st.sampled_from(["seed", "width", "steps", "an odd=name"])
    asked = {**GOOD, "method": draw(st.sampled_from(["grid", "random", "random", "bayes"]))}
    asked["parameters"] = draw(st.dictionaries(names, parameters(), min_size=1, max_size=2))
    if draw(st.integers(0, 5)) == 0:
        key = draw(st.sampled_from([*GOOD, "parameters", "run_cap", "early_terminate", "controller", "name", "nobody"]))
        odd = st.one_of(
            NUMBERS, VALUES, st.dictionaries(st.sampled_from(["type", "name", "goal", "min_iter"]), NUMBERS)
        )
        asked[key] = draw(odd)
    text = yaml.safe_dump(asked, allow_unicode=True)
    if draw(st.integers(0, 5)) == 0:
        place, length = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
        text = text[:place] + draw(st.text(max_size=5)) + text[place + length :]
    return text


def test_a_sweep_file_is_read_or_refused(tmp_path):
    path, tried = tmp_path / "drawn.yaml", {"read": 0, "refused": 0}

    @hypothesis.settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @hypothesis.given(sweeps())
    def reads(text):
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            found = read_sweep_file(path)
        except UsageError as error:
            tried["refused"] += 1
            check_sentence(error)
            return
        tried["read"] += 1
        for values in (_first_and_last(found), _sampled(found)):
            assert found.arguments(values)
            assert all(math.isfinite(value) for value in values.values() if isinstance(value, float)), text

    reads()
    assert min(tried.values()) > 20, tried
    print(f"{sum(tried.values())} sweep files were tried, {tried['read']} of them read", file=sys.__stderr__)


def _first_and_last(found):
    size = found.grid_size
    return {} if size is None else {**found.combination(0), **found.combination(size - 1)}


def _sampled(found):
    values = {}
    for one in found.parameters:
        if one.at is not None:
            values |= {f"{one.name} {place}": one.at(place) for place in (EDGE, 0.3, 1 - EDGE)}
        elif one.choices is not None:
            values |= {one.name: one.choices[-1]}
    return values
