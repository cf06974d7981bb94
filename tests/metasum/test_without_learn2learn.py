"""Where learn2learn is not installed: what torch runs, said once, and what is refused with the line for it."""

import json
import subprocess
import sys

import pytest
import torch
from odd_modules import Checkpointed
from tiny import blob_arrays, images, small_network, write_npz

from metasum import MetaSum, functional_call, third_party
from metasum.errors import UsageError

pytestmark = pytest.mark.timeout(1200)  # several trainings in one process

SCRIPT = """
import contextlib, io, json, sys
sys.modules["learn2learn"] = None  # what `import learn2learn` then says is that there is none
from metasum import cli
answers = {}
for name, words in json.loads(sys.argv[1]).items():
    sys.argv = ["metasum", *words]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as error:
            code = error.code
    answers[name] = [code, out.getvalue(), err.getvalue()]
json.dump(answers, sys.stdout)
"""
TINY = ("--width", 0.02, "--batch-size", 4, "--device", "cpu")
STEPS = (*TINY, "--steps", 2, "--calibration-batches", 1, "--memory-format", "contiguous", "--no-report")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Code, stdout and stderr of each command, all run in one process."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(("rows", "lines")):
        write_npz(root / f"{name}.npz", blob_arrays(seed))
    place = ("--data-root", root, "--out", tmp_path_factory.mktemp("out"))
    pair = ("--target", "rows", "--support", "lines", *place, *STEPS)
    timed = ("benchmark", *TINY, "--repeats", 1, "--memory-format", "contiguous", "--json")
    commands = {
        "train": ["train", *pair, "--json"],
        "reads none": ["train", *pair, "--learner", "independent"],
        "asked": ["train", *pair, "--backend", "learn2learn", "--name", "asked"],
        "meta-train": [
            "meta-train",
            "--meta-datasets",
            "rows,lines",
            "--meta-steps",
            1,
            "--inner-steps",
            1,
            *place,
            *TINY[:2],
        ],
        "compare": ["compare-baselines", *pair, "--learners", "metasum,metasum-symmetric", "--seeds", 1, "--json"],
        "few-shot": ["few-shot", *place, "--learner", "fine-tuning"],
        "omniglot": ["few-shot", *place, "--dataset", "omniglot", "--download"],
        "benchmark": [*timed],
        "benchmark asked": [*timed, "--backends", "learn2learn"],
        "help": ["train", "--help"],
    }
    told = json.dumps({name: list(map(str, words)) for name, words in commands.items()})
    run = subprocess.run([sys.executable, "-c", SCRIPT, told], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("command", ["train", "meta-train", "compare"])
def test_torch_runs_what_nobody_chose_a_backend_for_and_it_is_said_once(answers, command):
    code, _, err = answers[command]
    assert code == 0, err
    assert err.count("learn2learn is not installed") == err.count(third_party.INSTALLING) == 1


def test_nothing_is_said_where_it_makes_no_difference(answers):
    code, _, err = answers["reads none"]
    assert code == 0, err
    assert "learn2learn" not in err


def test_the_run_says_which_backend_it_had(answers):
    run = json.loads(answers["train"][1])["run"]
    with open(f"{run}/config.json", encoding="utf-8") as file:
        assert json.load(file)["settings"]["own"]["backend"] == "torch"
    assert "[default: torch]" in " ".join(answers["help"][1].split())


@pytest.mark.parametrize("command", ["asked", "few-shot", "omniglot", "benchmark asked"])
def test_what_needs_it_is_refused_in_one_sentence_with_the_line_that_installs_it(answers, command):
    code, out, err = answers[command]
    sentence = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert sentence.startswith("metasum: ")
    assert sentence.endswith(f"not installed: {third_party.INSTALLING}")


def test_a_benchmark_leaves_its_rows_out_and_says_so(answers):
    code, out, err = answers["benchmark"]
    assert code == 0, err
    assert [row["backend"] for row in json.loads(out)["rows"]] == ["torch", "higher", "plain higher", "two state dicts"]
    assert err.count(third_party.INSTALLING) == 1


def test_in_python_the_first_backend_that_is_here_is_taken(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    model, x = small_network().eval(), images()
    assert MetaSum(model).backend == "torch"
    answer = functional_call(model, dict(model.named_parameters()), dict(model.named_buffers()), x)
    assert answer.equal(model(x))
    with pytest.raises(UsageError, match=r"learn2learn, which is not installed: python -m pip"):
        MetaSum(model, backend="learn2learn")


def test_a_module_that_only_it_can_run_is_told_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    with pytest.raises(UsageError, match=r"no backend can run this network .*learn2learn is not installed"):
        MetaSum(Checkpointed(), example=torch.randn(6, 3, dtype=torch.float64))
