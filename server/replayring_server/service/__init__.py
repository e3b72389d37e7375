"""The service: translates messages to calls of the engine and back. Owns no state worth keeping."""
