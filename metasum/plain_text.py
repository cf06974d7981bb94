"""Text as a terminal or a page may be shown it: names from files can hold sequences that move a cursor or turn text."""

from __future__ import annotations

import re

# control characters but tab and newline; marks that turn the direction of text; bytes of a file's name that are no text
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    r"""The text with every such character written out, as Python does it: an escape is the four characters \x1b."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
