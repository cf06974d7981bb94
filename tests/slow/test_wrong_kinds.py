"""Every public function, fed the wrong kind in place of each of its arguments: refused by name, and no number comes."""

import sys

import pytest
import torch
from public_calls import WRONG, Calls
from tiny import TINY

import metasum
from metasum import baselines, tasks
from metasum.errors import MetaSumError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LONG = ("train", "sum_runs", "sweep")
"""Of these the right kinds, which take a while, are left to other tests."""
OWN_CODE = ("merge_files(progress=class)", "sweep(start=class)")
"""What is given is called, and what it raises is the caller's."""
GROUPS = ("of_modules", "of_weights", "of_runs", "of_registries")


@pytest.fixture
def calls(tmp_path, data_root, finished, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where what is accepted as a folder's name is made
    return Calls(tmp_path, data_root, finished, {**TINY, "data_root": str(data_root), "steps": 1})


def test_everything_public_is_tried(calls):
    tried = {name for group in GROUPS for name in getattr(calls, group)()[0]}
    told = {"MetaSumError", "__version__"}  # nothing that is called with something
    assert tried | told >= {*metasum.__all__, *tasks.__all__, *baselines.__all__}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("group", GROUPS)
def test_the_wrong_kind_of_argument(calls, group):
    faults, count = [], 0
    every, right = getattr(calls, group)()
    for name, asked in every.items():
        for parameter in asked()[1]:
            taken = right.get(f"{name}.{parameter}", right.get(parameter, set()))
            for kind, wrong in WRONG.items():
                if f"{name}({parameter}={kind})" in OWN_CODE or (name in LONG and kind in taken):
                    continue
                call, arguments = asked()
                verdict = verdict_of(call, arguments | {parameter: wrong()})
                count += 1
                if (verdict == "accepted") != (kind in taken) or verdict not in ("accepted", "refused"):
                    faults.append(f"{name}({parameter}={kind}): {verdict}")
    assert not faults, "\n".join(faults)
    print(f"{count} wrong arguments were tried, {group}", file=sys.__stderr__)


def verdict_of(call, arguments):
    try:
        call(**arguments)
    except MetaSumError as error:
        return "refused" if str(error) and "\n" not in str(error) else f"says {error}"
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        return f"{type(error).__name__}: {error}"
    return "accepted"


def test_tensors_among_them_that_are_none(calls):
    weights = calls.weights()
    for wrong in (dict.fromkeys(weights), {**weights, "head.bias": torch.zeros(3, 3)}, {}):
        for call in (metasum.sum_parameters, metasum.average_parameters):
            with pytest.raises(MetaSumError, match=r"parameter_sets=|head\.bias|trunk\.0\.weight"):
                call([weights, wrong])
