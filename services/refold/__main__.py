"""`python -m refold`: the same as the `refold` command. Nobody imports it."""

from refold.cli import main

main()
