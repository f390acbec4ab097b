"""Run the `refold` command by `python -m refold`."""

from refold.cli import main

main()
