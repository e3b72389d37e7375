"""`python -m replayring_server serve ...`: the command `replayring` without its console script."""

import sys

from replayring_proto.cli import main

sys.exit(main())
