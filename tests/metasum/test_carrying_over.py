"""What may make sums of strangers better: anchors, sharpness-aware steps, tangents."""

import pytest
import torch
from refusal import refused
from tiny import images, labels, small_network
from torch.nn.functional import cross_entropy

from metasum import MetaSum
from metasum.config.sections import NetworkConfig
from metasum.errors import ArchitectureError
from metasum.learners.joint import JointConfig, JointLearner
from metasum.learners.regularised import opinion
from metasum.networks.build import build_network
from metasum.networks.tangent import Tangent
from metasum.types import Batch
from metasum.weights.composition import sum_parameters
from metasum.weights.parameters import parameters_of, with_parameters

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))


def learner_of(**values):
    return JointLearner(MetaSum(small_network()), JointConfig(**values))


def gradients(learner):
    learner.zero_grad()
    learner.training_step(TARGET, SUPPORT)
    return [parameter.grad.clone() for parameter in learner.parameters()]


def test_an_anchor_pulls_both_networks_to_their_start():
    plain, anchored = learner_of(), learner_of(anchor=0.3)
    with torch.no_grad():
        for learner in (plain, anchored):
            for parameter in learner.parameters():
                parameter.add_(0.1)
    for mine, theirs in zip(gradients(anchored), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs + 2 * 0.3 * 0.1)
    terms = anchored.training_step(TARGET, SUPPORT)
    count = sum(p.numel() for p in anchored.parameters())
    assert float(terms["anchor"]) == pytest.approx(0.3 * 0.01 * count)


def test_sharpness_aware_gradients_are_those_at_the_moved_weights():
    radius = 0.2
    learner, moved = learner_of(sharpness=radius), learner_of()
    slopes = gradients(moved)
    split = len(slopes) // 2
    with torch.no_grad():
        for part in (slice(None, split), slice(split, None)):
            norm = torch.sqrt(sum(slope.square().sum() for slope in slopes[part]))
            for parameter, slope in zip(list(moved.parameters())[part], slopes[part], strict=True):
                parameter.add_(radius * slope / norm)
    before = [p.detach().clone() for p in learner.parameters()]
    for mine, theirs in zip(gradients(learner), gradients(moved), strict=True):
        torch.testing.assert_close(mine, theirs)
    for parameter, start in zip(learner.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), start)


def test_sharpness_aware_steps_add_to_gradients_that_are_there():
    learner = learner_of(sharpness=0.2)
    once = gradients(learner)
    learner.training_step(TARGET, SUPPORT)
    for parameter, gradient in zip(learner.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_quiet_adds_the_divergence_on_foreign_images_to_each_network_alone():
    weight = 0.7
    plain, quiet = learner_of(), learner_of(quiet_weight=weight)
    gradients(plain)
    for network, own, foreign in (
        (plain.networks.target, TARGET, SUPPORT),
        (plain.networks.support, SUPPORT, TARGET),
    ):
        mixture = network(torch.cat([own.images[:3], foreign.images[:3]]))
        loss = weight * opinion(network(foreign.images)) + weight * opinion(mixture[3:])
        (loss + cross_entropy(mixture[:3], own.labels[:3])).backward()
    for mine, theirs in zip(gradients(quiet), [p.grad for p in plain.parameters()], strict=True):
        torch.testing.assert_close(mine, theirs)


def tangent_of(seed=0):
    config = NetworkConfig(width=0.04, norm="none", num_classes=4, dropout=0.0, tangent=True)
    return build_network(config, in_channels=1, seed=seed).double()


def plain_of(seed=0):
    config = NetworkConfig(width=0.04, norm="none", num_classes=4, dropout=0.0)
    return build_network(config, in_channels=1, seed=seed).double()


def drawn(network, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in parameters_of(network).items()
    }


X = torch.randn(3, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_tangent_starts_as_the_network_and_has_its_slope():
    tangent, plain = tangent_of(), plain_of()
    torch.testing.assert_close(tangent(X), plain(X))
    delta, start = drawn(plain, 1.0, 1), parameters_of(plain)
    for step, tolerance in ((1e-5, 1e-3), (1e-6, 1e-4)):
        nearby = with_parameters(plain, {name: start[name] + step * delta[name] for name in start})
        slope = (nearby(X) - plain(X)) / step
        along = (with_parameters(tangent, {name: step * delta[name] for name in start})(X) - plain(X)) / step
        torch.testing.assert_close(along, slope, rtol=tolerance, atol=tolerance * float(slope.detach().abs().max()))


def test_sums_of_tangents_parameters_are_sums_of_what_they_learnt():
    tangent = tangent_of()
    one, two = drawn(tangent, 0.1, 1), drawn(tangent, 0.1, 2)
    summed = with_parameters(tangent, sum_parameters([one, two]))(X)
    parts = with_parameters(tangent, one)(X) + with_parameters(tangent, two)(X)
    torch.testing.assert_close(summed, parts - plain_of()(X))


def test_a_tangent_learns_and_its_start_stays():
    tangent = tangent_of()
    start = {name: buffer.clone() for name, buffer in tangent.named_buffers()}
    optimizer = torch.optim.Adam(tangent.parameters(), 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(tangent(X), torch.tensor([0, 1, 2]))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(buffer, start[name]) for name, buffer in tangent.named_buffers())


def test_batch_norm_has_no_tangent():
    with pytest.raises(ArchitectureError, match="--norm none"):
        Tangent(small_network())


def test_a_tangents_run_is_read_back(metasum, tiny, tmp_path):
    assert metasum("train", *tiny, "--learner", "tangent").code == 0
    folder = tmp_path / "runs" / "rows+lines" / "tangent-seed0"
    outcome = metasum("evaluate", folder / "target.safetensors", "--on", "rows", "--data-root", tiny[5], "--json")
    assert outcome.code == 0, outcome.err


def test_sharpness_aware_steps_move_under_autocast_too():
    def found(sharpness):
        networks = MetaSum(small_network().float())
        learner = JointLearner(networks, JointConfig(sharpness=sharpness))
        batches = [Batch(batch.images.float(), batch.labels) for batch in (TARGET, SUPPORT)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = learner.training_step(*batches)
        return terms["target"]

    assert abs(float(found(2.0)) - float(found(0.0))) > 0.1


def test_a_sharpness_aware_step_counts_once_in_running_statistics():
    learner = learner_of(sharpness=0.2)
    learner.training_step(TARGET, SUPPORT)
    assert int(dict(learner.networks.target.named_buffers())["1.num_batches_tracked"]) == 1


def test_tangents_of_two_initialisations_are_told_apart(metasum, tiny, tmp_path):
    for seed in (0, 7):
        assert metasum("train", *tiny, "--learner", "tangent", "--init-seed", seed, "--name", f"t{seed}").code == 0
    runs = [tmp_path / "runs" / "rows+lines" / f"t{seed}" for seed in (0, 7)]
    refused(metasum("sum", *runs, "--out", tmp_path / "s"), 2, "different initialisations")


@pytest.mark.parametrize(
    ("learner", "flags", "words"),
    [
        ("quiet", ("--sum-weight", 3), "--sum-weight"),
        ("quiet", ("--reading", "gap"), "--reading"),
        ("tangent", ("--norm", "group"), "--norm is none"),
        ("tangent", ("--backend", "higher"), "--backend"),
        ("independent", ("--tangent", "--norm", "none", "--backend", "higher"), "--backend"),
    ],
)
def test_what_such_a_learner_does_not_read_is_refused(metasum, tiny, learner, flags, words):
    refused(metasum("train", *tiny, "--learner", learner, *flags), 2, words)


def test_an_anchor_of_nothing_is_taken_at_its_word(metasum, tiny, tmp_path):
    assert metasum("train", *tiny, "--learner", "anchored", "--anchor", 0).code == 0
    lines = (tmp_path / "runs" / "rows+lines" / "anchored-seed0" / "metrics.jsonl").read_text()
    assert "anchor" not in lines
