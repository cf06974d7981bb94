"""From stored pixels to what a network sees."""

import pytest
import torch

from metasum.tasks.images import LUMA, augment, moments, prepare

CASES = [(1, 1), (1, 3), (3, 1), (3, 3)]


def pixels(count=50, channels=1, size=28):
    """Colour channels that are correlated and of different spread."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(0, 120, (count, 1, size, size), generator=generator)
    own = torch.randint(0, 100, (count, channels, size, size), generator=generator)
    factor = torch.tensor([1.0, 0.5, 0.2])[:channels].view(1, -1, 1, 1)
    return (base + own * factor).to(torch.uint8)


def seen(images, in_channels):
    """The channels that a network sees, the plain way, in units of 0 to 1."""
    x = images.double() / 255
    if x.shape[1] == 3 and in_channels == 1:
        return (x * torch.tensor(LUMA, dtype=torch.float64).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return x.expand(-1, in_channels, -1, -1)


@pytest.mark.parametrize(("channels", "in_channels"), CASES)
def test_moments_are_those_of_the_channels_seen(channels, in_channels):
    images = pixels(channels=channels)
    mean, deviation = moments(images, in_channels=in_channels)
    expected = seen(images, in_channels)
    torch.testing.assert_close(mean.double(), expected.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(deviation.double(), expected.std((0, 2, 3), unbiased=False), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("channels", "in_channels"), CASES)
def test_prepared_images_are_normalised_and_padded_with_black(channels, in_channels):
    images = pixels(channels=channels)
    mean, deviation = moments(images, in_channels=in_channels)
    out = prepare(images, mean, deviation)
    assert out.shape == (50, in_channels, 32, 32)
    inner = out[:, :, 2:30, 2:30]
    torch.testing.assert_close(inner.mean((0, 2, 3)), torch.zeros(in_channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(inner.std((0, 2, 3)), torch.ones(in_channels), atol=1e-3, rtol=0)
    expected = (seen(images, in_channels) - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
    torch.testing.assert_close(inner.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[0, :, 0, 0], -mean / deviation)


def test_an_odd_size_is_padded_all_the_way():
    out = prepare(torch.full((1, 1, 5, 8), 255, dtype=torch.uint8), torch.zeros(1), torch.ones(1))
    assert out.shape == (1, 1, 32, 32)
    assert out.sum() == 40


def test_images_of_one_grey_do_not_divide_by_zero():
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    assert prepare(images, *moments(images, in_channels=1)).isfinite().all()


@pytest.mark.parametrize("kind", ["shift", "shift-flip"])
def test_augmentation_moves_each_image_by_at_most_four_pixels(kind, rng):
    images = torch.zeros(400, 2, 32, 32)
    images[:, :, 16, 10] = 1
    out = augment(images, kind, rng)
    assert out.shape == images.shape
    assert torch.equal(out[:, 0], out[:, 1]), "channels move together"
    places = out[:, 0].flatten(1).argmax(1)
    rows, columns = places // 32 - 16, places % 32
    assert set(rows.tolist()) == set(range(-4, 5))
    near = set(range(6, 15))
    expected = near | ({31 - c for c in near} if kind == "shift-flip" else set())
    assert set(columns.tolist()) == expected


def test_augmentation_draws_from_its_generator_alone():
    images = torch.randn(8, 1, 32, 32)
    state = torch.get_rng_state()
    first, again, other = (augment(images, "shift-flip", torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert augment(images, "none", torch.Generator()) is images
