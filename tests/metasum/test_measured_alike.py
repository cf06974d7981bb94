"""Before and after are measured alike: both with recalibrated statistics, or both with every network's own."""

import copy
import json

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import descend, images, labels, small_network
from torch import nn

from metasum import MetaSum, settings
from metasum.baselines.merging import merging_learner
from metasum.baselines.two_head import TwoHeadLearner
from metasum.config.sections import EvaluationConfig
from metasum.errors import UsageError
from metasum.learners.joint import JointConfig, JointLearner
from metasum.learners.slots import SlotsConfig, SlotsLearner
from metasum.merging import METHODS
from metasum.networks.build import load_network
from metasum.run.meta_plan import meta_plan
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask
from metasum.training.analysis import _png
from metasum.training.confusion import confusion, share_right
from metasum.training.evaluation import Evaluator
from metasum.types import Batch
from metasum.weights.statistics import recalibrate
from metasum.weights.statistics_policy import side_by_side

NO_AUTOCAST = torch.no_grad


class Images:
    """A dataset of 24 held-out and 40 training images `[N, 1, 8, 8]`, these in batches of 10."""

    def __init__(self, seed):
        self.held_out = Batch(images(24, seed=seed) * 3 + 1, labels(24, seed=seed))
        self.train = (images(40, seed=seed + 10) * 3 + 1).split(10)

    def evaluation(self, limit=None):
        yield Batch(*(part[:limit] for part in self.held_out))

    def calibration(self, batches):
        return self.train[:batches]


TASKS = Images(1), Images(2)


def pair(**keywords):
    """Two networks of many opinions, whose running statistics are far from those of any of the images."""
    own = small_network(0), small_network(1)
    for network in own:
        network[5].weight.data.mul_(5)
        network[7].weight.data.mul_(10)
    networks = MetaSum(own[0], support=own[1], **keywords).train()
    for network in (networks.target, networks.support):
        network(images(seed=5) * 40 - 30)
    return networks


def joint(networks=None, **keywords):
    return JointLearner(networks or pair(**keywords), JointConfig())


def evaluator(statistics=None, batches=4):
    settings = EvaluationConfig(statistics=statistics, calibration_batches=batches)
    return Evaluator(*TASKS, settings=settings, autocast=NO_AUTOCAST)


def alone_as_the_sum(kind):
    """A learner whose sum is the target network, and the sides on which it is the side's own one."""
    if kind == "a support of zeros":
        networks = pair()
        for parameter in networks.support.parameters():
            parameter.data.zero_()
        return joint(networks), ["target"]
    networks = pair()
    networks.support.load_state_dict(networks.target.state_dict())
    if kind == "the average of one network with itself":
        return joint(_with_operator(networks, "average")), ["target", "support"]
    method = METHODS["average"]
    return merging_learner(method)(networks, method.Config()), ["target", "support"]


def _with_operator(networks, operator):
    twin = MetaSum(networks.target, support=networks.support, operator=operator)
    return twin.eval()


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("kind", ["a support of zeros", "the average of one network with itself", "the same, merged"])
def test_a_sum_that_is_the_network_alone_changes_nothing(kind, limit):
    learner, sides = alone_as_the_sum(kind)
    found = evaluator().on_the_way(learner, limit=limit)
    whole = evaluator().everything(learner)
    for side in sides:
        for accuracy in (getattr(found, side), getattr(whole.accuracy, side)):
            assert accuracy.before == accuracy.after
        assert torch.equal(getattr(whole.confusion_before, side), getattr(whole.confusion_after, side))
    assert whole.accuracy.target.before_running != whole.accuracy.target.before, "else nothing was compared here"


def test_the_network_alone_is_recalibrated_on_a_copy_and_its_running_statistics_are_told():
    learner = joint()
    kept = copy.deepcopy(learner.state_dict())
    whole = evaluator().everything(learner)
    evaluator().on_the_way(learner, limit=10)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in learner.state_dict().items())
    assert whole.statistics == "recalibrate"
    for side, task in zip(("target", "support"), TASKS, strict=True):
        network, accuracy = getattr(learner.networks, side).eval(), getattr(whole.accuracy, side)
        assert getattr(whole.alone, side) is network, "what is saved is what was trained"
        assert accuracy.before_running == share_right(confusion(network, task.evaluation()))
        settled = recalibrate(copy.deepcopy(network), task.calibration(4))
        matrix = confusion(settled, task.evaluation())
        assert accuracy.before == share_right(matrix)
        assert torch.equal(matrix, getattr(whole.confusion_before, side))
        x = task.held_out.images
        torch.testing.assert_close(getattr(whole.measured_alone, side)(x), settled(x), rtol=0, atol=0)


@pytest.mark.parametrize("statistics", ["target", "support", "learned"])
def test_where_the_sum_is_not_recalibrated_the_network_alone_is_not_either(statistics):
    learner = joint()
    learner.networks.summed(images())
    whole = evaluator(statistics).everything(learner)
    assert whole.statistics == statistics
    assert whole.accuracy.target.before == share_right(confusion(learner.target_network(), TASKS[0].evaluation()))
    assert whole.accuracy.target.before_running is None
    assert "before_running" not in whole.accuracy.target.plain()


def test_without_batch_norm_there_is_no_other_number():
    learner = joint(MetaSum(small_network(0, norm=False), support=small_network(1, norm=False)))
    assert evaluator().everything(learner).accuracy.target.before_running is None


@pytest.mark.parametrize(("limit", "most"), [(10, 10), (20, 20), (24, 20), (1000, 20)])
def test_an_evaluation_on_the_way_reads_no_more_images_than_one_that_recalibrates_the_sum_alone(limit, most):
    read, learner = 0, joint()

    def count(module, inputs, _):
        nonlocal read
        read += len(inputs[0]) if isinstance(module, nn.Conv2d) else 0

    handle = nn.modules.module.register_module_forward_hook(count)
    try:
        evaluator().on_the_way(learner, limit=limit)
    finally:
        handle.remove()
    held_out = 4 * min(limit, 24)
    assert read == held_out + 4 * most <= held_out + 2 * 40


def slots(**keywords):
    learner = SlotsLearner(MetaSum(small_network(), **keywords), SlotsConfig())
    descend(
        learner,
        *(next(iter(task.evaluation())) for task in TASKS),
        torch.optim.Adam(learner.parameters(), 1e-2),
        steps=5,
    )
    return learner


def whole_networks(learner):
    return MetaSum(learner.target_network(), support=learner.support_network())


def test_a_sum_of_networks_without_a_common_channel_has_every_networks_own_statistics():
    learner = slots()
    whole = evaluator().everything(learner)
    assert whole.statistics == "own"
    expected = side_by_side([learner.target_network(), learner.support_network()])
    for network in whole.summed:
        assert all(torch.equal(buffer, expected[name]) for name, buffer in network.named_buffers())
    x = TASKS[0].held_out.images
    own = learner.target_network()(x) + learner.support_network()(x)
    torch.testing.assert_close(whole.summed.target(x), own)
    assert whole.accuracy.target.before == share_right(confusion(learner.target_network(), TASKS[0].evaluation()))
    assert evaluator("own").on_the_way(learner) == evaluator().on_the_way(learner)
    assert evaluator("recalibrate").everything(learner).statistics == "recalibrate"
    assert set(whole.after_by_operator) == {"sum", "average"}, "these are recalibrated as ever"


@pytest.mark.parametrize(
    "make",
    [
        joint,
        lambda: slots(operator="average"),
        lambda: joint(MetaSum(small_network(0, norm=False), support=small_network(1, norm=False))),
        lambda: TwoHeadLearner(pair(), TwoHeadLearner.Config()),
        lambda: merging_learner(METHODS["ties"])(whole_networks(slots()), METHODS["ties"].Config()),
    ],
    ids=["a shared channel", "not the plain sum", "no statistics", "shared parts", "merged"],
)
def test_own_statistics_are_refused_where_the_sum_cannot_have_them(make):
    learner = make()
    with pytest.raises(UsageError, match="without a channel in common") as caught:
        evaluator("own").everything(learner)
    assert "\n" not in str(caught.value)
    assert evaluator().everything(learner).statistics == "recalibrate"


@pytest.mark.parametrize("flags", [(), ("--learner", "slots", "--operator", "average"), ("--learner", "ties")])
def test_own_statistics_are_refused_before_training(metasum, tiny, tmp_path, flags):
    refused(metasum("train", *tiny, "--statistics", "own", *flags), 2, "without a channel in common")
    assert not (tmp_path / "runs").exists()


def test_a_short_run_tells_both_numbers(metasum, finished, data_root):
    result = json.loads((finished / "result.json").read_text())
    assert result["statistics"] == "recalibrate"
    accuracy = result["accuracy"]["target"]
    assert abs(accuracy["before"] - accuracy["before_running"]) > 0.01
    for statistics, key in (("stored", "before_running"), ("recalibrate", "before")):
        flags = ("--on", "rows", "--data-root", data_root, "--device", "cpu", "--statistics", statistics, "--json")
        # one calibration batch holds all 96 training images
        outcome = metasum("evaluate", finished / "target.safetensors", *flags)
        assert json.loads(outcome.out)["accuracy"]["rows"] == accuracy[key]
    both = f"rows: alone {accuracy['before']:.2%} with recalibrated statistics, {accuracy['before_running']:.2%} with"
    assert both in (finished / "report.html").read_text()
    confusion_before = json.loads((finished / "analysis.json").read_text())["confusion"]["target"]["before"]
    assert share_right(torch.tensor(confusion_before)) == accuracy["before"]
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    evaluations = [json.loads(line) for line in lines if '"evaluation"' in line]
    assert "before_running" not in evaluations[0]["accuracy"]["target"], "on the way there is no such number"
    assert evaluations[-1]["accuracy"]["target"] == accuracy


def test_the_terminal_tells_both_numbers(metasum, tiny, finished):
    outcome = metasum("train", *tiny, "--resume")
    assert outcome.code == 0, outcome.err
    assert "rows: alone " in outcome.out
    assert "training was too short for these to settle" in outcome.out


def as_an_older_version_left_it(run):
    """Takes out what older versions did not write, and says what they said instead."""
    config = json.loads((run / "config.json").read_text())
    config["settings"]["evaluation"]["statistics"] = "recalibrate"
    (run / "config.json").write_text(json.dumps(config))
    if (run / "result.json").is_file():
        result = json.loads((run / "result.json").read_text())
        del result["statistics"]
        for accuracy in result["accuracy"].values():
            accuracy.pop("before_running", None)
        (run / "result.json").write_text(json.dumps(result))
    return config


def test_finished_runs_of_older_versions_are_read_resumed_and_redrawn(metasum, tiny, finished):
    as_an_older_version_left_it(finished)
    outcome = metasum("train", *tiny, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert "statistics" not in json.loads(outcome.out)
    assert metasum("report", finished).code == 0
    assert "with the running ones" not in (finished / "report.html").read_text()


def test_unfinished_runs_of_older_versions_are_continued(metasum, tiny, unfinished):
    as_an_older_version_left_it(unfinished)
    outcome = metasum("train", *tiny, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["statistics"] == "recalibrate"


def test_runs_in_slots_of_older_versions_are_others_and_the_default_can_be_told(metasum, tiny, tmp_path):
    assert metasum("train", *tiny, "--learner", "slots").code == 0
    run = tmp_path / "runs" / "rows+lines" / "slots-seed0"
    assert json.loads((run / "config.json").read_text())["settings"]["evaluation"]["statistics"] == "own"
    assert json.loads((run / "result.json").read_text())["statistics"] == "own"
    assert metasum("train", *tiny, "--learner", "slots", "--statistics", "own", "--resume").code == 0
    as_an_older_version_left_it(run)
    refused(metasum("train", *tiny, "--learner", "slots", "--resume"), 2, "statistics was recalibrate, now own")
    assert metasum("train", *tiny, "--learner", "slots", "--resume", "--statistics", "recalibrate").code == 0


def test_weights_are_saved_with_their_running_statistics(finished):
    saved = load_file(finished / "target.safetensors")
    counters = [int(tensor) for name, tensor in saved.items() if name.endswith("num_batches_tracked")]
    assert set(counters) == {6}, "a recalibrated network has seen one batch"


def test_a_meta_training_is_found_again_that_an_older_version_made():
    """It has no sum to settle; its settings, by which it is found, are those of ever."""
    plan = meta_plan(settings(learner="metasum-meta"), ("letters",))
    assert plan.to_json()["evaluation"] == {
        "statistics": "recalibrate",
        "calibration_batches": 16,
        "heads": "summed",
    }


def test_pictures_of_a_sum_in_slots_compare_it_with_the_networks_as_they_were_trained(metasum, tiny, tmp_path):
    runs = []
    for slot, (target, support) in enumerate((("rows", "lines"), ("lines", "rows"))):
        flags = ["--target", target, "--support", support, "--learner", "slots", "--slot", slot, "--json"]
        outcome = metasum("train", *tiny, *flags)
        assert outcome.code == 0, outcome.err
        runs.append(json.loads(outcome.out))
    outcome = metasum("sum", *(run["run"] for run in runs), "--out", tmp_path / "runs", "--json", "--no-report")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    for run in runs:
        found = result["accuracy"][run["target"]]
        assert found["alone_running"] == run["accuracy"]["target"]["before"], "as the run measured it"
        task = ImageTask(load_dataset(run["target"], root=tmp_path / "data"))
        network = load_network(f"{run['run']}/target.safetensors")
        with torch.no_grad():
            pictures = {_png(image): guess for image, guess in _guesses(network, task)}
        assert [item["before"] for item in result["mistakes"][run["target"]]] == [
            pictures[item["png"]] for item in result["mistakes"][run["target"]]
        ]


def _guesses(network, task):
    for batch in task.evaluation():
        yield from zip(batch.images, network(batch.images).argmax(1).tolist(), strict=True)


def test_own_statistics_can_be_asked_of_a_merging_learner_that_keeps_them(metasum, tiny):
    outcome = metasum("train", *tiny, "--learner", "side-by-side", "--statistics", "own", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["statistics"] == "own"
