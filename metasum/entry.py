"""Where the command starts: before anything is imported that takes a while, so that Ctrl-C is heard from there on."""

from __future__ import annotations

import sys


def main() -> None:
    """As `metasum.cli.main`; a Ctrl-C during the imports is one line, too, and exit code 130."""
    try:
        from metasum.cli import main as run
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("metasum: interrupted; nothing was begun.\n")
        sys.exit(130)
    run()
