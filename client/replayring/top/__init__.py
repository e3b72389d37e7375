"""`replayring top`: the state of a server, or of several, in a terminal, kept up to date.

`readings` asks, `rates` compares two answers, `screen` draws one out of `tables` and `figures`,
`showing` draws again and again. Only `tables`, `screen` and `showing` know rich.
"""
