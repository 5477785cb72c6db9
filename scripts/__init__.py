"""Command-line programs: each is `python -m scripts.NAME --help`."""
