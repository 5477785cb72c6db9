"""The project's trainers against the libraries that do the same: `python -m scripts.benchmark --help`.

    measures/     what is compared: the runs to make, and the table's rows from what they found
    programs/     what runs, each in a process of its own: ours, the peers, and what both work on
    runner        makes the runs, alternating, and keeps what they found as JSON
    peers         the peers' virtual environments
    page          docs/benchmarks.md from the JSON

Nothing here but `programs` imports torch.
"""
