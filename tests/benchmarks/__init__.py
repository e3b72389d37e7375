"""How fast replayring is, beside what the machine's memory and wire could do at best.

    python -m tests.benchmarks                    # all workloads, a few minutes
    python -m tests.benchmarks --workload small --seconds 1

Figures of one run compare with each other; those of another day or machine do not.
"""
