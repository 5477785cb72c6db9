"""Machine learning: candidates, reward model, PPO and their evaluation, from files to files.

Knows nothing of Label Studio, Flask or databases. `python -m trainers STAGE --help` runs each stage.
"""
