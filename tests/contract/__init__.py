"""One suite of behaviours for every way to a buffer: see `transports` for what these are."""
