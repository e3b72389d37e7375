"""The replayring server: an engine that keeps the rings, a service that translates, a process."""
