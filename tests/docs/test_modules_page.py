"""docs/modules.md: its code runs from top to bottom, and its lists are those that tests hold."""

import re
from pathlib import Path

import odd_layers
import odd_modules
import odd_refusals
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "modules.md").read_text(encoding="utf-8")


def test_its_code_runs():
    known = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "docs/modules.md", "exec"), known)
    assert all(parameter.grad is not None for parameter in known["meta"].parameters())
    assert known["merged"](known["x_t"]).shape == (16, 4)


def test_it_lists_every_kind_with_the_backends_that_run_it():
    listed = {}
    for backends, kinds in re.findall(r"^\| (.*) \| (.*) \|$", PAGE, flags=re.MULTILINE):
        listed |= dict.fromkeys(kinds.replace("`", "").split("; "), tuple(backends.split(", ")))
    right = {kind: backends for kind, (_, backends) in (odd_modules.RUN | odd_layers.RUN).items()}
    assert {kind: backends for kind, backends in listed.items() if kind in right} == right


@pytest.mark.parametrize("kind", odd_modules.REFUSED | odd_refusals.REFUSED)
def test_it_lists_what_is_refused(kind):
    assert kind in " ".join(PAGE[PAGE.index("These are refused") :].split())
