"""The soak: a server under everything at once, for hours, with deaths, held to its promises.

    python -m tests.soak --hours 1

Prints a line per interval, and exits with 1 if something acknowledged was lost, a row was torn, a
call failed that should not have, or the server grew beyond its bounds.
"""
