"""`replayring top`: a server's state in a terminal, kept up to date.

`readings` asks, `rates` compares two answers, `screen` draws one, `showing` draws again and again.
Only the last two know rich.
"""
