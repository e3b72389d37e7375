"""What a benchmark makes a server do, and with how many processes: loads, roles, and turns.

`replayring bench` measures a user's own server with it, and `tests/benchmarks` measures beside it
what others do with the same loads. `turns` and `workloads` import nothing of replayring, so that
the interpreters of other systems can use them as well.
"""
