"""Tools for developers: `python -m tests.tools.NAME --help`."""
