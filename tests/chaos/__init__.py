"""Chaos: real jobs on a real stack, each disturbed once at a random moment, then judged.

python -m tests.chaos --runs 60 --seed 0
"""
