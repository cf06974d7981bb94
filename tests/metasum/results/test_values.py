"""Every kind of result: to JSON and back, from format 1, and what is said of files that hold none."""

import contextlib
import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from metasum.errors import CheckpointError
from metasum.results.accuracy import BeforeAfter, Spread
from metasum.results.kinds import KINDS, read_result
from metasum.results.run import RunResult
from metasum.results.upgrade import FORMAT
from metasum.results.value import Value

FIXTURES = Path(__file__).parents[2] / "fixtures" / "runs-format-1" / "results"
SAID_NOTHING = {"evaluation", "merge", "benchmark", "networks"}  # no file of format 1 holds one
FILES = sorted(FIXTURES.glob("*.json"), key=lambda path: path.stem)


def old(path):
    return json.loads(path.read_text())


def now(path):
    """A result of format 1 as a value."""
    more = {"format": FORMAT, "kind": path.stem} if path.stem in SAID_NOTHING else {}
    plain = more | old(path)
    return KINDS[path.stem.replace("merging-run", "run")].from_json(plain)


@dataclasses.dataclass(frozen=True)
class Renamed(Value):
    """Its JSON has another key."""

    inside: int

    def plain(self):
        return {"outside": self.inside}

    @classmethod
    def arranged(cls, plain):
        return {"inside": plain["outside"]}


@dataclasses.dataclass(frozen=True)
class Pair(Value):
    first: Renamed
    second: Renamed


def test_two_fields_of_one_type_are_read_alike():
    pair = Pair(Renamed(1), Renamed(2))
    assert Pair.parse(pair.plain(), where="here") == pair


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


LATER = {"merge": {"statistics": 0}}  # keys that came with format 2, and what stands for them
LATER |= {kind: {"heads": "summed"} for kind in ("run", "merging-run", "sum", "comparison", "experiment")}
MAY_BE_MISSING = {"format", "kind", "endpoints", "export"}


def test_there_is_a_file_of_every_kind():
    assert {path.stem for path in FILES} - {"merging-run"} == set(KINDS) - {"joint training"}  # which is newer


@every_file
def test_format_1_is_read_and_its_keys_stay(path):
    plain = now(path).to_json()
    assert plain.pop("format") == 2
    assert plain.pop("kind") == path.stem.replace("merging-run", "run")
    assert plain == LATER.get(path.stem, {}) | old(path)


@every_file
def test_to_json_and_back_is_the_same_value(path, tmp_path):
    value = now(path)
    (tmp_path / "result.json").write_text(json.dumps(value.to_json()))
    assert read_result(tmp_path / "result.json") == value
    assert type(value).from_json(value.to_json()) == value


@every_file
def test_results_are_frozen(path):
    value = now(path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def places(found, path=()):
    """Paths to all objects in a JSON value."""
    if isinstance(found, dict):
        yield path
        for name, each in found.items():
            yield from places(each, (*path, name))
    if isinstance(found, list) and found:
        yield from places(found[0], (*path, 0))


def at(plain, path):
    for step in path:
        plain = plain[step]
    return plain


def refusal(kind, plain):
    with pytest.raises(CheckpointError) as caught:
        KINDS[kind].from_json(plain, where="runs/a/result.json")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith("runs/a/result.json")
    return sentence


@every_file
def test_a_missing_or_unknown_field_is_one_sentence(path):
    plain, kind = now(path).to_json(), path.stem.replace("merging-run", "run")
    for name in [name for name in plain if name not in MAY_BE_MISSING | set(LATER.get(kind, {}))]:
        rest = {key: value for key, value in plain.items() if key != name}
        assert name in refusal(kind, rest)
    assert "surprise is unknown" in refusal(kind, plain | {"surprise": 1})


def test_a_field_deep_inside_is_named_with_all_around_it():
    plain = now(FIXTURES / "comparison.json").to_json()
    damaged = copy.deepcopy(plain)
    del damaged["rows"][1]["accuracy"]["support"]["after"]
    assert "rows.1.accuracy.support.after is missing" in refusal("comparison", damaged)
    damaged = copy.deepcopy(plain)
    damaged["summary"][0]["target"]["before"]["mean"] = "much"
    assert "summary.0.target.before.mean: " in refusal("comparison", damaged)


@every_file
def test_no_damage_ends_in_another_error_than_ours(path):
    plain, kind = now(path).to_json(), path.stem.replace("merging-run", "run")
    for place in list(places(plain))[1:]:
        for wrong in ([], "text", 7, None):
            damaged = copy.deepcopy(plain)
            at(damaged, place[:-1])[place[-1]] = wrong
            with contextlib.suppress(CheckpointError):  # some of it happens to make sense
                KINDS[kind].from_json(damaged, where="x")


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({}, "does not hold a result"),
        ({"format": 3, "kind": "run"}, "format 3; this version of metasum reads formats 1 to 2"),
        ({"format": "x", "kind": "run"}, "format x"),
        ({"format": 2}, "kind is missing"),
        ({"format": 2, "kind": "dream"}, "'dream', which this version of metasum does not know"),
    ],
)
def test_what_is_no_result_is_said(plain, words, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match=words):
        read_result(tmp_path / "result.json")


def test_another_kind_is_said():
    assert "holds the result of a sum, not of a run" in _caught(lambda: RunResult.read(FIXTURES / "sum.json"))


def _caught(call):
    with pytest.raises(CheckpointError) as caught:
        call()
    return str(caught.value)


def test_retention_and_drop_follow_from_before_and_after():
    assert BeforeAfter(0.8, 0.6).retention == pytest.approx(0.75)
    assert BeforeAfter(0.8, 0.6).drop == pytest.approx(0.2)
    assert BeforeAfter(0.0, 0.1).retention is None
    assert Spread.of([0.4, 0.6, None]).mean == pytest.approx(0.5)


def test_results_and_tables_import_nothing_heavy():
    names = ", ".join(f"metasum.results.{path.stem}" for path in Path("metasum/results").glob("[a-z]*.py"))
    heavy = ("torch", "pydantic", "rich", "wandb", "matplotlib", "jinja2")
    code = f"import sys, {names}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
