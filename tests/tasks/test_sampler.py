"""Episodes and tasks: every image once a pass, and nothing but the generator decides the order."""

import io

import pytest
import torch
from tiny import blob_arrays

from metasum.errors import CheckpointError, UsageError
from metasum.tasks import ImageTask, PairSampler
from metasum.tasks.arrays import dataset_from_arrays


def task(seed=0, train=96, **keywords):
    return ImageTask(dataset_from_arrays(f"blobs{seed}", blob_arrays(seed, train=train), source="test"), **keywords)


def sampler(seed=0, pairs=None, batch_size=10):
    generator = torch.Generator().manual_seed(seed)
    return PairSampler(pairs or [(task(0), task(1))], batch_size=batch_size, generator=generator)


def same(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_every_training_image_is_seen_once_before_any_is_seen_twice():
    images = [next(sampled).target.images for sampled in [sampler(batch_size=8)] for _ in range(24)]
    for passes in (images[:12], images[12:]):
        seen = {image.numpy().tobytes() for batch in passes for image in batch}
        assert len(seen) == 96
    assert not torch.equal(images[0], images[12]), "each pass has an order of its own"


def test_batches_go_on_over_the_end_of_a_pass():
    small = sampler(pairs=[(task(0, train=12), task(1))], batch_size=10)
    assert [len(next(small).target.labels) for _ in range(4)] == [10] * 4


def test_the_generator_alone_decides():
    state = torch.get_rng_state()
    one, again, other = sampler(3), sampler(3), sampler(4)
    first = [next(one) for _ in range(5)]
    assert all(same(a, next(again)) for a in first)
    assert not same(first[0], next(other))
    assert torch.equal(state, torch.get_rng_state())


def test_a_dataset_s_order_does_not_depend_on_its_partner():
    one, other = sampler(pairs=[(task(0), task(1))]), sampler(pairs=[(task(0), task(2, train=17))])
    assert all(torch.equal(next(one).target.images, next(other).target.images) for _ in range(30))


@pytest.mark.parametrize("augmentation", ["none", "shift-flip"])
def test_a_sampler_goes_on_from_its_saved_state(augmentation):
    pairs = [(task(0, augmentation=augmentation), task(1)), (task(2), task(1))]
    one = sampler(pairs=pairs)
    for _ in range(13):
        next(one)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    expected = [next(one) for _ in range(20)]
    other = sampler(99, pairs=pairs)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(same(episode, next(other)) for episode in expected)


def test_several_pairs_are_drawn_evenly():
    sampled = sampler(pairs=[(task(0), task(1)), (task(2), task(1))])
    first = {image.numpy().tobytes() for image in task(0).training_batch(torch.arange(96), torch.Generator()).images}
    share = sum(next(sampled).target.images[0].numpy().tobytes() in first for _ in range(300)) / 300
    assert 0.4 < share < 0.6


def test_a_state_of_other_tasks_is_refused():
    two = sampler(pairs=[(task(0), task(1)), (task(2), task(1))])
    with pytest.raises(CheckpointError, match="other pairs"):
        sampler().load_state_dict(two.state_dict())
    next(two)
    large = sampler(pairs=[(task(0), task(1))])
    next(large)
    with pytest.raises(CheckpointError, match="larger dataset"):
        sampler(pairs=[(task(0, train=12), task(1))]).load_state_dict(large.state_dict())


def test_no_pair_is_refused():
    with pytest.raises(UsageError, match="at least one pair"):
        PairSampler([], batch_size=4, generator=torch.Generator())


def test_validation_images_are_a_tenth_that_training_never_sees():
    plain, held = task(0), task(0, evaluate_on="validation")
    assert len(plain) == 96
    assert len(held) == 86
    training = {i.numpy().tobytes() for i in held.training_batch(torch.arange(86), torch.Generator()).images}
    calibration = {i.numpy().tobytes() for batch in held.calibration(9) for i in batch}
    validation = {i.numpy().tobytes() for batch in held.evaluation() for i in batch.images}
    assert len(validation) == 10
    assert not validation & (training | calibration)


def test_evaluation_and_calibration_are_always_the_same():
    one, other = task(0), task(0)
    assert same(list(one.evaluation()), list(other.evaluation()))
    assert sum(len(b.labels) for b in one.evaluation(limit=30)) == 30
    first, second = (torch.cat(list(t.calibration(2))) for t in (one, other))
    assert torch.equal(first, second)


def test_calibration_batches_are_equal_so_that_each_image_counts_alike():
    sizes = [len(batch) for batch in task(0, train=600).calibration(9)]
    assert sizes == [200, 200, 200]
    assert [len(batch) for batch in task(0, train=600).calibration(2)] == [256, 256]
