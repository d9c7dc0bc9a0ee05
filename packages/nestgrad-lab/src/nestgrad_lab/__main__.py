"""`python -m nestgrad_lab` is `nestgrad`."""

from nestgrad_lab.cli import main

main()
