"""Meta-training: the outer loss and its gradient, the run, resuming, and what it reads."""

import json

import pytest
import torch
from refusal import nothing_written, refused
from safetensors.torch import load_file
from tiny import images, labels, small_network
from torch.nn.functional import cross_entropy

from metasum import MetaSum
from metasum.learners.joint import ObjectiveConfig
from metasum.learners.meta import MetaLearner
from metasum.tasks import loading
from metasum.training.episodes import EpisodeEvaluator
from metasum.types import Batch

STEPS = 2
FAST = ("--meta-batch-size", 4, "--inner-steps", 2, "--evaluate-every", 2, "--checkpoint-every", 2, "--log-every", 1)
FAST += ("--width", 0.04, "--device", "cpu")


def batch(seed):
    return Batch(images(6 * (STEPS + 1), seed=seed), labels(6 * (STEPS + 1), seed=seed))


def learner_of(objective=None, **keywords):
    networks = MetaSum(small_network(), shared=True, lr=0.2, **keywords)
    return MetaLearner(networks, objective or ObjectiveConfig(), inner_steps=STEPS)


def by_hand(model, first, second, *, weights=(1.0, 1.0, 1.0)):
    """The outer loss in plain torch.func."""

    def loss(parameters, part):
        return cross_entropy(torch.func.functional_call(model, parameters, (part.images,)), part.labels)

    ends = []
    parts = [
        [Batch(*p) for p in zip(b.images.chunk(STEPS + 1), b.labels.chunk(STEPS + 1), strict=True)]
        for b in (first, second)
    ]
    for own in parts:
        theta = dict(model.named_parameters())
        for step in range(STEPS):
            slopes = torch.autograd.grad(loss(theta, own[step]), list(theta.values()), create_graph=True)
            theta = {name: t - 0.2 * g for (name, t), g in zip(theta.items(), slopes, strict=True)}
        ends.append(theta)
    summed = {name: ends[0][name] + ends[1][name] for name in ends[0]}
    return [loss(ends[0], parts[0][-1]), loss(ends[1], parts[1][-1]), loss(summed, parts[0][-1])]


def test_the_outer_gradient_is_that_of_the_three_terms_through_both_adaptations():
    learner, model = learner_of(ObjectiveConfig(target_weight=0.5, support_weight=2.0, sum_weight=3.0)), small_network()
    terms = learner.training_step(batch(1), batch(2))
    losses = by_hand(model, batch(1), batch(2))
    (0.5 * losses[0] + 2 * losses[1] + 3 * losses[2]).backward()
    for name, expected in zip(("target", "support", "sum"), losses, strict=True):
        torch.testing.assert_close(terms[name], expected.detach())
        assert not terms[name].requires_grad
    for mine, theirs in zip(learner.networks.target.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_symmetric_asks_the_sum_on_every_tasks_images():
    learner = learner_of(ObjectiveConfig(symmetric=True))
    one, other = (learner_of().training_step(*pair)["sum"] for pair in ((batch(1), batch(2)), (batch(2), batch(1))))
    torch.testing.assert_close(learner.training_step(batch(1), batch(2))["sum"], (one + other) / 2)


def test_further_partners_count_as_support():
    learner = learner_of()
    terms = learner.training_step(batch(1), batch(2), batch(3))
    second, third = (learner_of().training_step(batch(1), batch(seed))["support"] for seed in (2, 3))
    torch.testing.assert_close(terms["support"], (second + third) / 2)


def test_meta_training_makes_the_sum_better_on_its_own_episode():
    learner = learner_of()
    optimizer = torch.optim.Adam(learner.parameters(), 0.02)
    evaluator = EpisodeEvaluator([(batch(1), batch(2))], autocast=torch.enable_grad)
    before = evaluator.on_the_way(learner)
    for _ in range(60):
        optimizer.zero_grad()
        learner.training_step(batch(1), batch(2))
        optimizer.step()
    after = evaluator.on_the_way(learner)
    assert after.target.after > before.target.after
    assert after.target.before >= before.target.before


@pytest.fixture
def meta(metasum, data_root, tmp_path):
    def run(*more, steps=4, out="runs"):
        place = ("--data-root", data_root, "--out", tmp_path / out)
        return metasum("meta-train", "--meta-datasets", "rows,lines", "--meta-steps", steps, *FAST, *place, *more)

    return run


def test_a_run_leaves_an_initialisation_to_train_from(meta, metasum, tiny, tmp_path):
    outcome = meta("--json", "--name", "m")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["run"] == str(tmp_path / "runs" / "meta" / "m")
    assert result["datasets"] == ["rows", "lines"]
    assert 0 <= result["accuracy"]["target"]["after"] <= 1
    trained = metasum("train", *tiny, "--init", result["initial"], "--num-classes", 10)
    assert trained.code == 0, trained.err


@pytest.mark.parametrize("rule", ["sgd", "meta-sgd", "adam"])
def test_every_inner_optimizer_trains_and_resumes_bit_for_bit(meta, monkeypatch, tmp_path, rule):
    flags = ("--inner-optimizer", rule, "--first-order", "--name", "m", "--json")
    assert meta(*flags, out="whole").code == 0
    from metasum.training.harness import Harness

    steps = Harness._train_step

    def stop(self):
        if self.step == 3:
            raise KeyboardInterrupt
        steps(self)

    monkeypatch.setattr(Harness, "_train_step", stop)
    assert meta(*flags, out="cut").code == 130
    monkeypatch.setattr(Harness, "_train_step", steps)
    assert meta(*flags, "--resume", out="cut").code == 0
    whole, cut = (load_file(tmp_path / out / "meta" / "m" / "initial.safetensors") for out in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_only_the_named_datasets_are_loaded(meta, monkeypatch):
    from metasum.run import meta_training

    loaded = []

    def load(name, **keywords):
        loaded.append(name)
        return loading.load_dataset(name, **keywords)

    monkeypatch.setattr(meta_training, "load_dataset", load)
    assert meta(steps=1).code == 0
    assert loaded == ["rows", "lines"]


def test_a_pool_that_meta_training_would_not_read_is_refused(meta, tmp_path):
    outcome = meta("--pool", "nowhere.safetensors", steps=1)
    assert outcome.code == 2
    assert outcome.err.startswith("metasum: No such option")
    assert "--pool" in outcome.err
    assert not (tmp_path / "runs").exists()


def test_another_layout_or_device_is_the_same_meta_training(meta, tmp_path):
    assert meta(steps=1).code == 0
    assert meta("--memory-format", "channels-last", "--device", "auto", "--resume", steps=1).code == 0
    assert len(list((tmp_path / "runs" / "meta").iterdir())) == 1


def test_other_settings_get_another_folder_and_the_same_ones_are_refused(meta, tmp_path):
    assert meta(steps=1).code == meta(steps=2).code == 0
    assert len(list((tmp_path / "runs" / "meta").iterdir())) == 2
    refused(meta(steps=1), 2, "holds a finished run")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--meta-datasets", "rows,rows"), ("different datasets",)),
        (("--meta-datasets", "rwos"), ("'rwos'", "rows")),
        (("--partners", 5), ("two of its own",)),
        (("--task-classes", 9), ("2 to 4 classes",)),
    ],
)
def test_what_cannot_be_meta_trained_on_is_refused(meta, tmp_path, flags, words):
    refused(meta(*flags), 2, *words)
    assert nothing_written(tmp_path)


def test_a_target_is_never_meta_trained_on(metasum, tiny, tmp_path):
    refused(metasum("train", *tiny, "--learner", "metasum-meta", "--meta-datasets", "rows"), 2, "'rows'", "never seen")


def test_a_given_initialisation_that_has_seen_the_target_is_refused(meta, metasum, tiny, tmp_path):
    assert meta("--name", "m", steps=1).code == 0
    init = tmp_path / "runs" / "meta" / "m" / "initial.safetensors"
    flags = ("--learner", "metasum-meta", "--num-classes", 10, "--init", init)
    refused(metasum("train", *tiny, *flags), 2, "meta-learnt on 'rows'")
    refused(metasum("train", *tiny, *flags, "--meta-steps", 7), 2, "--meta-steps", "--init")


def test_the_runs_own_optimiser_does_not_meta_train(metasum, tiny, tmp_path):
    fast = ("--learner", "metasum-meta", "--meta-steps", 1, "--meta-batch-size", 4)
    assert metasum("train", *tiny, *fast).code == 0
    assert metasum("train", *tiny, *fast, "--optimizer", "sgd", "--warmup", 2, "--name", "other").code == 0
    assert len(list((tmp_path / "runs" / "meta").iterdir())) == 1


def test_names_stay_in_their_folder(meta, tmp_path):
    refused(meta("--name", "../../x"), 2, "--name")
    assert nothing_written(tmp_path)


def test_frozen_weights_stay_and_the_others_adapt():
    model = small_network()
    model[0].weight.requires_grad_(False)
    networks = MetaSum(model, shared=True, allow_nograd=True)
    clones = networks.clone()
    clones.adapt(cross_entropy(clones.target(batch(1).images), batch(1).labels))
    adapted = dict(clones.target.named_parameters())
    assert torch.equal(adapted["0.weight"], model[0].weight)
    assert not torch.equal(adapted["7.weight"], model[7].weight)
