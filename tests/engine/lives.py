"""How a server's life ends in this process, without `close`."""

from __future__ import annotations

from replayring_server.engine import Store


def die(store: Store) -> None:
    """Lets a store go as the death of its process would: nothing is synced, the lock is free.

    Its arrays stay mapped, but nobody may use it any more.
    """
    store._syncer.stop()
    store.lock.release()
