"""Snapshots: copies of live buffers in a folder or an object store, and buffers made of them.

A snapshot is taken beside the server, by the readers' protocol of `replayring_proto.ring.reader`:
no lock, no word with the server, no writer that waits. What is kept at the destination:

    manifest.json                                     names all that belongs to the snapshot
    buffers/<buffer id>/<first>-<end>-<tail>-<hash>   frames: every column of a range of `index`
    buffers/<buffer id>/records-<hash>                who stored which episode
    parameters/<name>-<version>-<hash>                published parameters, as the server keeps them

Invariants, each held by tests/snapshots:

1. A snapshot of a buffer is a cut: the live frames, the episodes' records, the writers' table and
   the numbers that come next, all of one moment, which lies after the command began. What is
   appended later is no part of it. Buffers have a cut each.
2. Frames that writers overwrite before they were copied are missing at the old end, and are said to
   be. No frame is torn; none is missing in between. See `taking` for the order of copying.
3. What a name stands for never changes: names carry a hash of the content, and are used once the
   content is whole. The manifest is written last, and at once. So a snapshot that is interrupted
   leaves the one before as it was, and the next one uses the parts that are there already.
4. A part that is there is used again if the buffer still has these frames. They never change while
   a buffer lives, but a power loss, or older files that are put back, may take the newest ones away
   and others get their `index`. So a part's name has a hash of its last frames, which tells older
   files; and where it was not durable when it was copied, also of the buffer's lineage, which
   changes when a power loss took anything.
5. Every byte that is restored was compared with its hash, and the manifest with its own. A
   restored buffer is made aside and gets its name when it is whole and on the disk, as a new one
   does; so all of it survives a power loss from the first moment, whatever its `durability`.
6. `index`, `episode_index` and what comes next continue in the restored buffer. A retried episode
   is recognised if it is in the snapshot, and stored if it is not. The id is a new one, because
   from there on two buffers of one id could hold different frames of one `index`: same-host
   readers, and snapshots, tell buffers apart by their id. buffer.json names the snapshot that it
   was made of (`restored_from`), so that restoring again goes on where it was interrupted.
7. Memory is bounded by two parts, and a copy of each for a URL, where a part has
   `parts.PART_BYTES`, unless a single frame has more; and by parameters: one set, twice, while a
   snapshot is taken; all of them, as in a server, while it is restored.

One snapshot at a time goes to a destination; a folder is locked for that, a URL cannot be.
"""

from replayring_server.snapshots.restoring import Restored, restore
from replayring_server.snapshots.taking import Taken, snapshot

__all__ = ["Restored", "Taken", "restore", "snapshot"]
