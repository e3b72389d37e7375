"""The configuration of `replayring serve`: what can be set, from where, and what is in effect.

Each setting is a field of `Settings`, each limit one of `ServerLimits`. Flags, variables, keys of
the file, help, checks and `--print-config` are derived from those. What a setting does is not known
here.
"""

from replayring_server.configuration.effective import Configuration, configure
from replayring_server.configuration.flags import add_arguments
from replayring_server.configuration.settings import Settings

__all__ = ["Configuration", "Settings", "add_arguments", "configure"]
