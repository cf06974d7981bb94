"""Tasks to meta-train on: what varies, what is shared, and that nothing else is read."""

import pytest
import torch
from tiny import blob_arrays

from metasum.errors import UsageError
from metasum.tasks import ImageTask, TaskDistribution, Variations
from metasum.tasks.arrays import dataset_from_arrays

PLAIN = Variations(permute_labels=False, rotate=False, invert=False)


def task(seed=0, **keywords):
    return ImageTask(dataset_from_arrays(f"blobs{seed}", blob_arrays(seed, **keywords), source="test"))


def draws(tasks=None, *, seed=0, images=24, outputs=4, variations=PLAIN, **keywords):
    tasks = tasks or {"a": task(0), "b": task(1)}
    generator = torch.Generator().manual_seed(seed)
    return TaskDistribution(
        tasks, images=images, outputs=outputs, variations=variations, generator=generator, **keywords
    )


def labels_of(task):
    """Each training image's label, by its pixels."""
    batch = task.training_batch(torch.arange(len(task)), torch.Generator())
    return {image.numpy().tobytes(): int(label) for image, label in zip(*batch, strict=True)}


def test_partners_are_of_different_datasets_where_there_are_enough():
    a, b = task(0), task(1)
    known = [labels_of(a), labels_of(b)]
    distribution = draws({"a": a, "b": b})
    firsts = set()
    for _ in range(10):
        sources = []
        for images, labels in next(distribution):
            (source,) = {i for image in images for i in (0, 1) if image.numpy().tobytes() in known[i]}
            assert [known[source][image.numpy().tobytes()] for image in images] == labels.tolist()
            sources.append(source)
        assert sorted(sources) == [0, 1]
        firsts.add(sources[0])
    assert firsts == {0, 1}, "each is the target in turn"


def test_partners_that_share_a_dataset_share_no_class():
    distribution = draws({"a": task()})
    for _ in range(10):
        first, second = (set(batch.labels.tolist()) for batch in next(distribution))
        assert len(first) == len(second) == 2
        assert not first & second


def test_labels_are_permuted_alike_in_a_whole_task():
    known = labels_of(task())
    seen = set()
    distribution = draws({"a": task(), "b": task(1)}, variations=Variations(rotate=False, invert=False))
    for _ in range(20):
        for images, labels in next(distribution):
            pairs = {
                (known.get(image.numpy().tobytes()), int(label)) for image, label in zip(images, labels, strict=True)
            }
            if None not in {old for old, _ in pairs}:
                assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})
                seen.add(tuple(sorted(pairs)))
    assert len(seen) > 3


def test_unless_permuted_classes_keep_their_order_even_where_there_are_more_than_outputs():
    many = task(classes=8, size=12)
    known = labels_of(many)
    for batch in (batch for _ in range(5) for batch in next(draws({"a": many, "b": task(1)}, outputs=4))):
        pairs = {(known.get(image.numpy().tobytes()), int(label)) for image, label in zip(*batch, strict=True)}
        if None not in {old for old, _ in pairs}:
            old, new = zip(*sorted(pairs), strict=True)
            assert new == tuple(sorted(new)), f"{old} became {new}"
            assert max(new) < 4


@pytest.mark.parametrize(("name", "kinds"), [("rotate", 4), ("invert", 2)])
def test_images_are_turned_and_inverted_alike_in_a_whole_task(name, kinds):
    known = labels_of(task())
    undo = {
        "rotate": [lambda x, k=k: x.rot90(-k, dims=(1, 2)) for k in range(4)],
        "invert": [lambda x: x, lambda x: -x],
    }[name]
    switches = {"permute_labels": False, "rotate": False, "invert": False, name: True}
    distribution = draws({"a": task(), "b": task()}, variations=Variations(**switches))
    seen = set()
    for _ in range(30):
        for images, _ in next(distribution):
            fits = [k for k, f in enumerate(undo) if all(f(x).contiguous().numpy().tobytes() in known for x in images)]
            assert fits
            seen.add(fits[0])
    assert len(seen) == kinds


def test_tasks_can_have_fewer_classes_and_datasets_more_than_there_are_outputs():
    few = draws(variations=Variations(classes=2))
    assert all(len(set(batch.labels.tolist())) == 2 for _ in range(5) for batch in next(few))
    many = draws({"a": task(classes=8, size=12), "b": task(1, classes=8, size=12)}, outputs=3)
    assert all(set(batch.labels.tolist()) <= {0, 1, 2} for _ in range(5) for batch in next(many))


def test_the_number_of_partners_varies():
    distribution = draws({name: task(i) for i, name in enumerate("abc")}, partners=(2, 4))
    assert {len(next(distribution)) for _ in range(30)} == {2, 3, 4}


def test_it_goes_on_where_another_stood():
    one = draws(variations=Variations())
    next(one)
    state = one.state_dict()
    other = draws(seed=5, variations=Variations())
    other.load_state_dict(state)
    for mine, theirs in zip(next(one), next(other), strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"partners": (1, 2)}, "at least two"),
        ({"tasks": {"a": task()}, "partners": (2, 3)}, "two of its own"),
        ({"variations": Variations(classes=5)}, "2 to 4 classes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(keywords, words):
    with pytest.raises(UsageError, match=words):
        draws(**keywords)


def test_a_distribution_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least one dataset"):
        TaskDistribution({}, images=4, outputs=4, generator=torch.Generator())
