"""How fast replayring is, beside others and beside what memory and wire could do at best.

    python -m tests.benchmarks                            # all of it, about ten minutes
    python -m tests.benchmarks --workload small --part sample
    python -m tests.benchmarks --reverb-python venv/bin/python --json results.jsonl
    python -m tests.benchmarks --show results.jsonl       # the tables again, and --picture FILE

What is compared takes turns, a second each, and only ratios of neighbouring turns are taken, since
no machine is as fast now as it was a minute ago. Figures of one run compare with each other; those
of another day or machine do not.
"""
