"""An Omniglot-like set that needs no download: 340 characters of many scripts, 20 drawings of each.

Characters are those of matplotlib's DejaVu fonts, without those that look like another one's. Drawings differ in font,
affine map and a smooth random warp, and always come out the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metasum.tasks.embedded import draw_character, to_uint8
from metasum.tasks.shapes import SIZE, Arrays

CHARACTERS = (
    "0123456789ABCDEGHJKLMNPQRSTUVWXYZabdefghikmnopqrtuyÆÞßæðþŊŒœƄƆƎƏƐƔƕƖƜƢƣƦƧƩƪƱƷƸƼƿǁǂǝǶȜȸȹɁɐɘɞɤɥɮɯɷɸɹʀʁʃʇʌʍʎʔʕʖʗʚʜʞ"
    "ʣʤʦʧʩʪʫʬʭΓΔΞΦΨΩαβδζκλμνξςτυχωϗϘϙϚϞϟϠϡϺϻЂЉЊЋЏДЖИЛЧЩЪЫЬЮЯдлфцщъыђєњћѢѣҤҺӋԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՃՄՅՆՇՉՊՌՎՏՐՒՔՖգդեէըթժխծկձճմնչպջվփքֆ"
    "აბგდეზთიკლმოჟრსტუფქღყჩცწჭჯჰჱჲჳჴჵჶჸჹჺᴈᴔᴖᴗᴝᴞᴟⱭⱵⱷꜦꜧ#$%&?@¤§©®±¶÷†‰‽₦€₴₸₹→↖↭↶↻⇄⇊⇑⇛∂∇∈∏√∞∠≃≑≡⊂⊕⊠⊢⌂⌘⌥◆☹♀♂♃♄♆♠♣♧♪♮"
)
FONTS = tuple(
    f"DejaVu{family}{style}"
    for family, styles in (
        ("Sans", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("SansMono", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Serif", ("", "-Bold", "-Italic", "-BoldItalic")),
    )
    for style in styles
)
DRAWINGS, TEST_DRAWINGS = 20, 5  # of each character; the last ones are the test split
WARP = 1.5  # pixels, standard deviation


def glyphs() -> Arrays:
    """5,100 and 1,700 grey images of 32x32: 15 and 5 drawings of each of 340 characters, white on black."""
    rng = np.random.default_rng(5)
    images = np.stack([[_drawing(character, rng) for _ in range(DRAWINGS)] for character in CHARACTERS])
    labels = np.arange(len(CHARACTERS))[:, None].repeat(DRAWINGS, axis=1)
    train, test = (slice(None), slice(None, -TEST_DRAWINGS)), (slice(None), slice(-TEST_DRAWINGS, None))
    (x_train, y_train), (x_test, y_test) = (
        (images[part].reshape(-1, SIZE, SIZE), labels[part].reshape(-1)) for part in (train, test)
    )
    return (x_train, y_train), (x_test, y_test)


def _drawing(character: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`[32, 32]`, as another hand might have drawn it."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    mask = draw_character(character, FONTS, rng)
    shifts = [gaussian_filter(rng.normal(size=(SIZE, SIZE)), 5) for _ in range(2)]
    where = np.mgrid[:SIZE, :SIZE] + np.stack([shift * (WARP / shift.std()) for shift in shifts])
    return to_uint8(map_coordinates(mask, where, order=1) * rng.uniform(0.7, 1.0))
