"""`python -m tertulia` is the `tertulia` command."""

from tertulia.node.main import cli

cli(prog_name="tertulia")
