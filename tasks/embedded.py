"""Three image datasets that need no download: real handwritten digits, rendered letters, rendered digits in colour.

The real ones are in `digits.npz` beside this file: images `[1797, 8, 8]` from 0 to 16 and labels, the test set of
"Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak 1998, UCI Machine Learning Repository,
doi:10.24432/C50P49), under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), changed in its format only.

The rendered ones use fonts that matplotlib ships. Training and test images are drawn in different fonts and
always come out the same.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metasum.tasks.shapes import SIZE, Arrays

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

TRAIN_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic", "cmr10", "cmtt10",
)  # fmt: skip
TEST_FONTS = ("DejaVuSansMono-Bold", "DejaVuSerif-BoldItalic", "STIXGeneralBol", "cmss10")
TRAIN_IMAGES, TEST_IMAGES = 4000, 1000
WRITERS_SPLIT = 1297  # the first images of the file; the other 500 are by other hands, mostly


def digits() -> Arrays:
    """1,797 handwritten digits of 8x8 pixels, enlarged to 24x24 (Alpaydin & Kaynak 1998).

    Split in the order of the file, 1,297 and 500, not at random: neighbours in the file share a writer.
    """
    from PIL import Image

    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        pixels = (stored["images"] * (255 / 16)).astype(np.uint8)
        labels = stored["labels"].astype(np.int64)
    images = np.stack([np.asarray(Image.fromarray(p).resize((24, 24), Image.Resampling.BICUBIC)) for p in pixels])
    n = WRITERS_SPLIT
    return (images[:n], labels[:n]), (images[n:], labels[n:])


def letters() -> Arrays:
    """4,000 and 1,000 grey images of 32x32: A to J, white on black, turned, sheared, scaled and moved at random."""
    return _letters_split(TRAIN_FONTS, TRAIN_IMAGES, seed=1), _letters_split(TEST_FONTS, TEST_IMAGES, seed=2)


def printed_digits() -> Arrays:
    """4,000 and 1,000 colour images of 32x32: digits in two-coloured, textured scenes with neighbours at the rim."""
    return _printed_split(TRAIN_FONTS, TRAIN_IMAGES, seed=3), _printed_split(TEST_FONTS, TEST_IMAGES, seed=4)


def _letters_split(fonts: tuple[str, ...], count: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10)
    masks = np.stack([draw_character("ABCDEFGHIJ"[label], fonts, rng) for label in labels])
    noisy = masks * rng.uniform(0.6, 1.0, (count, 1, 1)) + rng.normal(0, 0.06, masks.shape)
    return to_uint8(noisy), labels


def _printed_split(fonts: tuple[str, ...], count: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10)
    images = np.empty((count, SIZE, SIZE, 3))
    for index, label in enumerate(labels):
        mask = draw_character(str(label), fonts, rng)
        for offset in (-22, 22):  # house numbers have neighbours, cut off by the frame
            if rng.random() < 0.5:
                mask = np.maximum(mask, _moved(draw_character(str(rng.integers(10)), fonts, rng), offset))
        images[index] = _paint(mask, rng)
    return to_uint8(images), labels


def _moved(mask: NDArray[np.float64], offset: int) -> NDArray[np.float64]:
    """The mask `offset` pixels to the right (to the left where negative), what leaves the frame gone."""
    padded = np.pad(mask, ((0, 0), (abs(offset), abs(offset))))
    return padded[:, abs(offset) - offset : abs(offset) - offset + SIZE]


def _paint(mask: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A mask `[32, 32]` in one colour on a background of another, with gradient, blotches and grain: `[32, 32, 3]`."""
    paper, ink = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    while abs(paper.mean() - ink.mean()) < 0.25:  # the digit must stay legible as luma, too
        paper, ink = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    slope = np.add.outer(np.linspace(-1, 1, SIZE) * rng.normal(), np.linspace(-1, 1, SIZE) * rng.normal())
    blotches = np.kron(rng.normal(0, 1, (8, 8)), np.ones((4, 4)))
    light = 0.08 * slope + 0.04 * blotches
    scene = paper + (ink - paper) * mask[..., None] + light[..., None]
    return scene + rng.normal(0, rng.uniform(0.01, 0.08), scene.shape)


def draw_character(character: str, fonts: tuple[str, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """A character in a random font under a random affine map: `[32, 32]`, 0 to 1."""
    from PIL import Image

    canvas = _large(character, fonts[rng.integers(len(fonts))])
    angle, shear, scale = rng.normal(0, 0.15), rng.normal(0, 0.15), rng.uniform(1.3, 1.9, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)  # from the small image to the large canvas
    offset = SIZE - matrix @ (np.array([SIZE / 2, SIZE / 2]) + rng.uniform(-2.5, 2.5, 2))
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    small = canvas.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float64) / 255


@lru_cache(256)  # letters and printed digits take 160 of them, again and again
def _large(character: str, font: str) -> Image:
    """The character in the middle of a canvas of 64x64, not to be drawn on; `font` is a file that matplotlib ships."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    ImageDraw.Draw(canvas).text((SIZE, SIZE), character, fill=255, font=_font(font), anchor="mm")
    return canvas


@cache
def _font(name: str) -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), 44, layout_engine=ImageFont.Layout.BASIC)


def to_uint8(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (images.clip(0, 1) * 255).round().astype(np.uint8)
