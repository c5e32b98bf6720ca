"""`python -m tertulia` is the `tertulia` command."""

import sys

if __package__ != "tertulia":  # run by path, our folder `signal` would hide the standard library's module
    sys.exit("run `python -m tertulia` or the `tertulia` command")

from tertulia.node.main import cli

cli(prog_name="tertulia")
