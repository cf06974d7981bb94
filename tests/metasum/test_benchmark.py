"""What `metasum benchmark` counts and compares."""

import json
import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from metasum.benchmark import input as benchmark_input
from metasum.benchmark.conditions import Conditions
from metasum.benchmark.memory import saved_bytes
from metasum.benchmark.plan import plan_benchmark
from metasum.benchmark.racing import Time, race, timed
from metasum.benchmark.steps import Step, operations, random_batch, random_dataset
from metasum.benchmark.usual_shapes import USUAL_SHAPES, joint_loss
from metasum.config.sections import NetworkConfig
from metasum.learners.joint import JointConfig, JointLearner
from metasum.learners.networks import MetaSum
from metasum.networks.build import build_network
from metasum.results.benchmark import Setting
from metasum.training.optimisation import make_fabric

TINY = ("--width", 0.02, "--device", "cpu")
QUICK = (*TINY, "--batch-size", 4, "--repeats", 1)


@pytest.fixture
def benchmark(metasum):
    def run(*flags, tiny=QUICK):
        outcome = metasum("benchmark", *tiny, *flags, "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    return run


def test_every_way_to_write_joint_metasum_amounts_to_three_plain_passes(benchmark):
    rows = benchmark()["rows"]
    assert [row["backend"] for row in rows] == ["learn2learn", "torch", "higher", *USUAL_SHAPES]
    for row in rows:
        assert row["passes"] == 3
        assert row["images_per_second"] * row["step_seconds"] == pytest.approx(2 * 4), "four of each dataset"
        assert set(row) >= {"learner", "width", "batch", "precision", "step_seconds", "minimum_seconds", "peak_bytes"}
        low, high = row["ratio_range"]
        assert 0 < low <= row["ratio"] <= high


def test_no_learner_does_more_than_its_terms_ask_for(benchmark):
    passes = {"independent": 2, "metasum-symmetric": 4, "quiet": 6, "sharpness-aware": 4, "two-head": 2}
    rows = benchmark("--learner", ",".join(passes))["rows"]
    assert {row["learner"]: row["passes"] for row in rows} == passes


def test_all_learners_have_a_step_to_time(benchmark):
    wider = ("--width", 0.04, "--batch-size", 4, "--repeats", 1, "--device", "cpu")  # slots need two channels
    rows = benchmark("--learner", "all", "--backends", "torch", tiny=wider)["rows"]
    timed = {row["learner"] for row in rows}
    assert {"metasum-meta", "slots", "tangent", "meta-networks", "meta-transfer"} < timed
    assert "ties" not in timed


def test_a_learner_that_reads_a_backend_is_timed_in_those_that_were_asked_for(benchmark):
    rows = benchmark("--learner", "metasum-symmetric,independent", "--backends", "torch,higher")["rows"]
    named = [(row["learner"], row["backend"]) for row in rows]
    joint = [("metasum-symmetric", backend) for backend in ("torch", "higher")]
    assert named == [*joint, ("independent", "learn2learn")]


def test_meta_training_stands_beside_the_libraries_own_loops(benchmark):
    rows = benchmark("--learner", "metasum-meta", "--inner-steps", 2)["rows"]
    names = ["learn2learn", "torch", "higher", "plain learn2learn", "plain higher"]
    assert [row["backend"] for row in rows] == names
    assert len({row["passes"] for row in rows}) == 1
    assert rows[0]["images_per_second"] * rows[0]["step_seconds"] == pytest.approx(2 * 3 * 4)
    assert rows[0]["passes"] == pytest.approx(2 * 2 * 3 + 3, abs=0.5)  # first layers have no images' gradient


def test_a_sum_of_four_costs_one_pass_more_than_four_networks(benchmark):
    rows = benchmark("--networks", "2,4", "--backends", "torch", "--no-usual-shapes")["rows"]
    assert [(row["networks"], row["passes"]) for row in rows] == [(2, 3), (4, 5)]


def test_settings_are_compared_in_the_same_rounds(benchmark):
    result = benchmark("--memory-format", "contiguous,channels-last", "--backends", "torch")
    assert [(row["what"], row["memory_format"]) for row in result["settings"]] == [
        (what, layout) for what in ("plain pass", "metasum") for layout in ("contiguous", "channels-last")
    ]
    assert result["settings"][0]["ratio"] == 1


def test_what_is_named_twice_is_measured_once(benchmark):
    result = benchmark("--width", "0.02,0.020,0.0200001", "--learner", "independent,independent")
    assert [row["width"] for row in result["rows"]] == [0.02, 0.0200001]
    assert [row["width"] for row in result["settings"]] == [0.02, 0.0200001] * 2


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_measured(metasum):
    outcome = metasum("benchmark", *QUICK, "--precision", "32,16-mixed")
    assert outcome.code == 2
    assert outcome.err.startswith("metasum: --precision 16-mixed needs a GPU")


def test_everything_around_a_step_is_measured_on_request(benchmark):
    result = benchmark("--measure", "optimizer,input,memory,evaluation")
    assert result["rows"] == []
    assert {(row["optimizer"], row["way"]) for row in result["optimizer"]} == {
        (name, way) for name in ("adam", "sgd") for way in ("for-loop", "foreach", "fused")
    }
    assert [row["way"] for row in result["input"]] == [
        *("metasum", "metasum, shift-flip", "DataLoader, 0 workers", "DataLoader, 2 workers")
    ]
    assert result["input"][0]["ratio"] == 1
    (memory,) = result["memory"]
    assert (
        memory["parameters"]
        == memory["gradients"]
        == memory["sum"]
        == memory["counted"]
        - sum(memory[name] for name in ("parameters", "gradients", "optimizer_state", "activations"))
    )
    assert result["evaluation"][0]["images"] > 0


def test_the_need_of_a_step_is_a_batch_for_each_network(monkeypatch):
    found = iter([{"metasum": Time(0.5, 1.0, (1.0, 1.0), [0.5])}, {"step": Time(2.0, 1.0, (1.0, 1.0), [2.0])}])
    monkeypatch.setattr(benchmark_input, "race", lambda *_, **__: next(found))
    setting = Setting(1.0, 10, 8, "32", "contiguous", compiled=False)
    conditions = Conditions(setting, make_fabric("cpu"), repeats=1)
    (row,) = benchmark_input.rows_against(SimpleNamespace(batches=[None] * 8), random_dataset(20), conditions)
    assert row.images_per_second == 20 * 10 / 0.5
    assert row.of_step == row.images_per_second / (8 * 10 / 2.0)


def test_workers_that_are_not_forked_read_images():
    """As on macOS and, from Python 3.14 on, Linux; and a batch may be as large as the dataset."""
    loader = benchmark_input._loader(random_dataset(20), 20, 1)
    loader.multiprocessing_context = multiprocessing.get_context("spawn")
    (batch,) = loader
    assert batch[0].shape == (20, 1, 32, 32)


def test_activations_are_counted_in_the_precision_of_the_step(benchmark):
    result = benchmark(*("--measure", "memory", "--precision", "32,bf16-mixed", "--batch-size", 64), tiny=TINY)
    whole, narrow = (row["activations"] for row in result["memory"])
    assert narrow < 0.9 * whole


def test_the_tables_say_a_setting_once(metasum):
    outcome = metasum("benchmark", *QUICK, "--measure", "all", "--backends", "torch")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("width 0.02") == 5  # step, optimizer, input, memory, evaluation


def test_the_table_of_steps_fits_a_terminal_and_names_what_differs(metasum, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = metasum("benchmark", *QUICK, "--backends", "torch", "--precision", "32,bf16-mixed")
    assert outcome.code == 0, outcome.err
    assert "metasum, width 0.02, batch 4, 2 networks, channels-last, eager" in outcome.out
    heads, *_ = (line for line in outcome.out.splitlines() if "images/s" in line)
    assert heads.split()[:3] == ["setting", "backend", "passes"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--backends", "jax"], "unknown value for --backends 'jax'"),
        (["--measure", "time"], "unknown value for --measure 'time'"),
        (["--width", "1,wide"], "--width takes a number, not 'wide'"),
        (["--batch-size", "1"], "--batch-size must be at least 2, not 1"),
        (["--learner", "ties"], "learner 'ties' trains as 'independent' does; time that one"),
        (["--inner-steps", 3], "--inner-steps says nothing to learner 'metasum', only to metasum-meta"),
        (["--learner", "slots", "--backends", "torch"], "--backends says nothing to learner 'slots'"),
        (["--learner", "slots", "--no-usual-shapes"], "--no-usual-shapes says nothing to learner 'slots'"),
        (["--learner", "slots", "--measure", "memory"], "--learner is for --measure step"),
        (["--backends", "torch", "--measure", "input"], "--backends is for --measure step"),
        (["--networks", 4, "--measure", "all"], "--networks says nothing to --measure evaluation"),
        (["--compile", "yes", "--measure", "optimizer"], "--compile says nothing to --measure optimizer"),
        (["--compile", "yes", "--backends", "higher"], "--compile is for backend torch"),
        (["--learner", "independent", "--networks", "2,4"], "--networks says nothing to learner 'independent'"),
        (["--learner", "all", "--compile", "yes"], "--compile says nothing to learner 'metasum-symmetric'"),
        (["--learner", "metasun"], "unknown learner 'metasun'"),
        (["--precision", "8"], "unknown value for --precision '8'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(metasum, flags, words):
    outcome = metasum("benchmark", *flags)
    assert outcome.code == 2
    assert words in outcome.err


# each of these is the default, or nearly so: what was given is known, and not guessed from the value
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--learner", "independent", "--networks", 2], "--networks says nothing to learner 'independent', only to"),
        (["--learner", "slots", "--usual-shapes"], "--usual-shapes says nothing to learner 'slots'"),
        (["--learner", "slots", "--backends", "learn2learn,torch,higher"], "--backends says nothing to learner"),
        (["--inner-steps", 5], "--inner-steps says nothing to learner 'metasum', only to metasum-meta"),
        (["--learner", "metasum", "--measure", "memory"], "--learner is for --measure step"),
        (["--repeats", 5, "--measure", "memory"], "--repeats is for --measure step, optimizer, input and evaluation"),
        (["--batch-size", 64, "--measure", "evaluation"], "--batch-size is for --measure step, input and memory"),
        (["--sum-weight", 1, "--measure", "input"], "--sum-weight is for --measure step"),
        (["--learner", "metasum-symmetric", "--no-symmetric"], "--symmetric is True for learner"),
        (["--learner", "metasum-meta", "--meta-steps", 500], "--meta-steps says nothing to learner 'metasum-meta'"),
        (["--usual-shapes", "--networks", "4"], "--usual-shapes: there are none for what is asked here"),
        (["--usual-shapes", "--symmetric"], "--usual-shapes: there are none for what is asked here"),
        (["--networks", "2,4", "--symmetric"], "--symmetric says nothing to a sum of more than two networks"),
    ],
)
def test_a_setting_that_was_given_is_heeded_or_refused(metasum, flags, words):
    outcome = metasum("benchmark", *flags)
    assert outcome.code == 2
    assert words in outcome.err


def test_a_setting_that_one_of_the_measurements_heeds_is_taken():
    plan_benchmark({"learner": ("independent",), "measure": ("step", "memory"), "networks": (2,)})
    plan_benchmark({"learner": ("slots", "metasum"), "backends": ("torch",), "slots": 3})


def test_learners_are_timed_with_settings_of_their_own(benchmark):
    flags = ("--backends", "torch", "--learner")
    assert [row["passes"] for row in benchmark(*flags, "metasum", "--symmetric")["rows"]] == [4]  # no usual shapes
    rows = benchmark(*flags, "metasum,quiet", "--sum-weight", 0, "--quiet-weight", 0)["rows"]
    assert {row["learner"]: row["passes"] for row in rows} == {"metasum": 2, "quiet": 2}


@pytest.mark.parametrize("shape", USUAL_SHAPES)
def test_the_usual_shapes_have_metasums_gradient(shape):
    fabric = make_fabric("cpu")
    generator = torch.Generator().manual_seed(0)
    batches = [random_batch(4, generator, fabric.device) for _ in range(2)]
    model = build_network(NetworkConfig(width=0.03, num_classes=10, dropout=0.0), in_channels=1, seed=0)
    ours, theirs = (MetaSum(model) for _ in range(2))
    Step(JointLearner(ours, JointConfig()), batches, fabric)()
    pair = (theirs.target.train(), theirs.support.train())
    joint_loss(*pair, USUAL_SHAPES[shape](*pair), batches).backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_operations_of_a_product_are_two_for_each_pair_of_numbers():
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    assert operations(lambda: left @ right) == 2 * 2 * 3 * 5


def test_what_a_forward_saves_is_counted_once_and_without_the_weights():
    network = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Sigmoid())
    images = torch.ones(2, 4)
    assert saved_bytes(lambda: network(images).sum(), network) == images.nbytes + 2 * 3 * 4


@pytest.mark.parametrize(("device", "waits"), [("cuda", 2), ("mps", 2), ("cpu", 0)])
def test_kernels_are_waited_for_before_and_after(monkeypatch, device, waits):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    timed(lambda: None, torch.device(device))
    assert len(waited) == waits


def test_in_a_race_everybody_runs_in_every_round_and_the_first_is_the_measure():
    ran = []
    work = {name: (lambda name=name: ran.append(name)) for name in ("slow", "quick")}
    times = race(work, repeats=3, device=torch.device("cpu"))
    assert ran == ["slow", "quick", "quick", "slow", "slow", "quick", "quick", "slow"]
    assert times["slow"].ratio == 1
