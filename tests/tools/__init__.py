"""Tools of the developers, started by hand: `python -m tests.tools.NAME --help`."""
