"""Everything that replayring promises, as tests: one folder per part; see README.md beside this."""
