"""Arrow Flight: a plain server that gathers from the same mapped files into record batches.

No replay buffer, but the best that is to be had for sending columns. Its two ways are measured and
the better one counts: `sample` follows one endless `do_get`, where nothing is asked for and the
connection's window alone bounds what is under way; `exchange` asks for each batch over one
`do_exchange`, with several requests in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from benchmark.turns import take_turns
from benchmark.workloads import PRESETS, Workload
from pyarrow import flight

from tests.benchmarks.peers.columns import Columns, Picks, mapped
from tests.benchmarks.peers.program import run, serve_until_told

IN_FLIGHT = 8


class Batches:
    """A workload's batches as record batches, and back; no copy either way.

    A column is fixed-size binary, the cheapest type there is, unless it is a scalar of a type that
    Arrow stores as numpy does.
    """

    def __init__(self, workload: Workload) -> None:
        windowed = (workload.window,) if workload.window > 1 else ()
        self._layouts: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            name: (np.dtype(dtype), (*windowed, *shape))
            for name, (dtype, shape) in workload.columns.items()
        }
        self._layouts |= {
            name: (np.dtype(dtype), shape) for name, (dtype, shape) in PRESETS.items()
        }
        self._types = {
            name: pa.binary(dtype.itemsize * int(np.prod(shape, dtype=int)))
            for name, (dtype, shape) in self._layouts.items()
        }
        self.schema = pa.schema(list(self._types.items()))

    def pack(self, arrays: Columns) -> pa.RecordBatch:
        """Returns a record batch of these arrays."""
        return pa.RecordBatch.from_arrays(
            [
                pa.FixedSizeBinaryArray.from_buffers(
                    kind, len(arrays[name]), [None, pa.py_buffer(arrays[name])]
                )
                for name, kind in self._types.items()
            ],
            schema=self.schema,
        )

    def unpack(self, batch: pa.RecordBatch) -> Columns:
        """Returns the arrays of a record batch; views."""
        return {
            name: np.frombuffer(column.buffers()[1], dtype).reshape(len(column), *shape)
            for column, (name, (dtype, shape)) in zip(
                batch.columns, self._layouts.items(), strict=True
            )
        }


class Server(flight.FlightServerBase):
    """Serves batches without end."""

    def __init__(self, picks: Picks, batches: Batches) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._picks, self._batches = picks, batches

    def do_get(self, context: Any, ticket: Any) -> Any:
        def endless() -> Iterator[pa.RecordBatch]:
            while not context.is_cancelled():
                yield self._batches.pack(self._picks.gather())

        return flight.GeneratorStream(self._batches.schema, endless())

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        writer.begin(self._batches.schema)
        for _ in reader:
            writer.write_batch(self._batches.pack(self._picks.gather()))


def serve(workload: Workload, folder: str) -> None:
    """Serves batches from a buffer's files."""
    server = Server(Picks(mapped(Path(folder), workload), workload), Batches(workload))
    serve_until_told(f"grpc://127.0.0.1:{server.port}")
    server.shutdown()


def sample(workload: Workload, address: str) -> None:
    """Takes batches from one endless call."""
    batches = Batches(workload)
    with flight.connect(address) as client:
        reader = client.do_get(flight.Ticket(b""))

        def step() -> int:
            batches.unpack(reader.read_chunk().data)
            return workload.batch_size

        take_turns(step)
        reader.cancel()


def exchange(workload: Workload, address: str) -> None:
    """Asks for each batch, with several requests in flight."""
    batches = Batches(workload)
    with flight.connect(address) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b""))
        with writer:
            for _ in range(IN_FLIGHT):
                writer.write_metadata(b"1")

            def step() -> int:
                batches.unpack(reader.read_chunk().data)
                writer.write_metadata(b"1")
                return workload.batch_size

            take_turns(step)
            writer.done_writing()
            for _ in reader:
                pass


if __name__ == "__main__":
    run({"serve": serve, "sample": sample, "exchange": exchange})
