"""What the benchmark runs: each module is a program, `python -m MODULE OPTIONS.json FIGURES.json`.

`measure(options)` of a module returns its figures; `meter.main` does the rest. Those whose names begin with
`trl_ppo` run in the peer's virtual environment and import nothing of ours but this package.
"""
