"""ReplayService: every RPC by name, and what each is handed to."""

from __future__ import annotations

from functools import partial

import grpc

from replayring_proto.messages import info_to_message, parse, spec_from_message
from replayring_proto.server_status import ServerStatus, status_to_message
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Store
from replayring_server.refusals import RefusalLog
from replayring_server.security.authorisation import Authorisation
from replayring_server.service import fetching, listing, publishing
from replayring_server.service.adding import AddEpisodes
from replayring_server.service.boundary import METHODS, generic_handler
from replayring_server.service.calls import Call, Calls
from replayring_server.service.changes import Changes
from replayring_server.service.reporting import Reporter
from replayring_server.service.sampling import SampleBatch
from replayring_server.service.workers import Lane, Workers
from replayring_server.tally import CallTally


class ReplayService:
    """The service over one store. Belongs to one event loop; does not close the store."""

    def __init__(self, store: Store, authorisation: Authorisation, refusals: RefusalLog) -> None:
        self._store = store
        self._authorisation = authorisation
        self._refusals = refusals
        self._changes = Changes()
        self._workers = Workers()
        self._calls = Calls(store.limits, CallTally(METHODS))
        self._reporter = Reporter(store, self._calls)

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns what a gRPC server registers."""
        return generic_handler(
            {
                "CreateBuffer": self._create_buffer,
                "GetBuffer": self._get_buffer,
                "ListBuffers": self._list_buffers,
                "DeleteBuffer": self._delete_buffer,
                "AddEpisodes": self._add_episodes,
                "GetItem": self._get_item,
                "SampleBatch": self._sample_batch,
                "ReadColumn": self._read_column,
                "PublishParameters": self._publish_parameters,
                "WatchParameters": self._watch_parameters,
                "GetServerStatus": self._get_server_status,
            },
            self._calls,
            self._authorisation,
            self._refusals,
        )

    def status(self) -> ServerStatus:
        """Returns how the server is doing."""
        return self._reporter.status()

    def stop_waiting(self) -> None:
        """Ends calls that merely wait; those at work go on."""
        self._calls.stop()

    def close(self) -> None:
        """Ends the threads for engine calls. Call it when the gRPC server has stopped."""
        self._workers.close()

    async def _create_buffer(self, call: Call) -> bytes:
        request = parse(replay_pb2.CreateBufferRequest, await call.request())
        spec = spec_from_message(request.spec)
        buffer, created = await self._workers.run(
            Lane.FILES, partial(self._store.create, request.name, spec)
        )
        return replay_pb2.CreateBufferResponse(
            buffer=info_to_message(buffer.info()), created=created
        ).SerializeToString()

    async def _get_buffer(self, call: Call) -> bytes:
        request = parse(replay_pb2.GetBufferRequest, await call.request())
        buffer = self._store.get(request.name)
        info = await fetching.steadily(self._workers, buffer, buffer.info, 0)
        return replay_pb2.GetBufferResponse(buffer=info_to_message(info)).SerializeToString()

    async def _list_buffers(self, call: Call) -> bytes:
        request = parse(replay_pb2.ListBuffersRequest, await call.request())
        return listing.list_buffers(self._store, request).SerializeToString()

    async def _delete_buffer(self, call: Call) -> bytes:
        request = parse(replay_pb2.DeleteBufferRequest, await call.request())
        await self._workers.change(
            Lane.FILES, partial(self._store.delete, request.name), then=self._calls.let_go
        )
        return replay_pb2.DeleteBufferResponse().SerializeToString()

    async def _add_episodes(self, call: Call) -> None:
        await AddEpisodes(self._store, self._changes, self._workers, self._calls, call).run()

    async def _sample_batch(self, call: Call) -> None:
        await SampleBatch(self._store, self._changes, self._workers, self._calls, call).run()

    async def _get_item(self, call: Call) -> None:
        await fetching.get_item(self._store, self._workers, self._calls, call)

    async def _read_column(self, call: Call) -> None:
        await fetching.read_column(self._store, self._workers, call)

    async def _publish_parameters(self, call: Call) -> bytes:
        return await publishing.publish(
            self._store, self._changes, self._workers, self._calls, call
        )

    async def _watch_parameters(self, call: Call) -> None:
        await publishing.watch(self._store, self._changes, self._calls, call)

    async def _get_server_status(self, call: Call) -> bytes:
        parse(replay_pb2.GetServerStatusRequest, await call.request())
        return replay_pb2.GetServerStatusResponse(
            status=status_to_message(self.status())
        ).SerializeToString()
