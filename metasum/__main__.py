"""`python -m metasum`."""

from metasum.entry import main

main()
