"""The package behind `replayring demo`: a policy learns from rollouts that crossed the wire.

Read `actor.py` and `learner.py` to see how replayring is used; `experience.py` is what the two
agree on and `sac.py` the algorithm. The rest starts, watches and ends processes and shows how
they are doing (`command`, `session`, `supervisor`, `tether`, `progress`, `plot`).
"""
