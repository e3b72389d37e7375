"""The wire and the process: what a peer may say, what it hears back, and what outlives it."""
