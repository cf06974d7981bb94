"""`python -m metasum`."""

from metasum.cli import main

main()
