"""The engine: buffers in mapped files, and everything that must survive in them.

Knows numpy and files, nothing of grpc or asyncio. Usable on its own:

    with Store(path) as store:
        buffer, _ = store.create("online", spec)
        buffer.append({"observation": frames})
"""

from replayring_server.engine.buffer import Buffer, Stored
from replayring_server.engine.incoming import Rows
from replayring_server.engine.parameter_files import ParameterSet
from replayring_server.engine.records import Origin
from replayring_server.engine.store import Store

__all__ = ["Buffer", "Origin", "ParameterSet", "Rows", "Store", "Stored"]
