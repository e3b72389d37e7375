"""`replayring top`: a server's state in a terminal, kept up to date.

`rates` compares two readings, `screen` draws one; nothing but `screen` knows rich.
"""
