"""ReplayService: every RPC by name, and what each is handed to."""

from __future__ import annotations

from functools import partial

import grpc

from replayring_proto.messages import info_to_message, parse, spec_from_message
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Store
from replayring_server.security.authorisation import Authorisation
from replayring_server.service import fetching, publishing
from replayring_server.service.adding import AddEpisodes
from replayring_server.service.boundary import Context, Requests, generic_handler
from replayring_server.service.changes import Changes
from replayring_server.service.drain import Drain
from replayring_server.service.sampling import SampleBatch
from replayring_server.service.workers import Workers


class ReplayService:
    """The service over one store. Belongs to one event loop; does not close the store."""

    def __init__(self, store: Store, authorisation: Authorisation) -> None:
        self._store = store
        self._authorisation = authorisation
        self._changes = Changes()
        self._workers = Workers()
        self._drain = Drain()

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
            },
            self._drain,
            self._authorisation,
        )

    def stop_waiting(self) -> None:
        """Ends calls that merely wait; those at work go on."""
        self._drain.stop()

    def close(self) -> None:
        """Ends the threads for engine calls. Call it when the gRPC server has stopped."""
        self._workers.close()

    async def _create_buffer(self, message: bytes, _: Context) -> bytes:
        request = parse(replay_pb2.CreateBufferRequest, message)
        spec = spec_from_message(request.spec)
        buffer, created = await self._workers.run(partial(self._store.create, request.name, spec))
        return replay_pb2.CreateBufferResponse(
            buffer=info_to_message(buffer.info()), created=created
        ).SerializeToString()

    async def _get_buffer(self, message: bytes, _: Context) -> bytes:
        request = parse(replay_pb2.GetBufferRequest, message)
        info = self._store.get(request.name).info()
        return replay_pb2.GetBufferResponse(buffer=info_to_message(info)).SerializeToString()

    async def _list_buffers(self, message: bytes, _: Context) -> bytes:
        parse(replay_pb2.ListBuffersRequest, message)
        infos = [self._store.get(name).info() for name in self._store.names()]
        return replay_pb2.ListBuffersResponse(
            buffers=[info_to_message(info) for info in infos]
        ).SerializeToString()

    async def _delete_buffer(self, message: bytes, _: Context) -> bytes:
        request = parse(replay_pb2.DeleteBufferRequest, message)
        buffer_id = self._store.get(request.name).buffer_id
        await self._workers.change(
            partial(self._store.delete, request.name),
            then=partial(self._changes.notify, buffer_id),
        )
        return replay_pb2.DeleteBufferResponse().SerializeToString()

    async def _add_episodes(self, requests: Requests, context: Context) -> None:
        call = AddEpisodes(self._store, self._changes, self._workers, self._drain)
        await call.run(requests, context)

    async def _sample_batch(self, requests: Requests, context: Context) -> None:
        call = SampleBatch(self._store, self._changes, self._workers, self._drain)
        await call.run(requests, context)

    async def _get_item(self, message: bytes, context: Context) -> None:
        await fetching.get_item(self._store, self._workers, message, context)

    async def _read_column(self, message: bytes, context: Context) -> None:
        await fetching.read_column(self._store, self._workers, message, context)

    async def _publish_parameters(self, requests: Requests, _: Context) -> bytes:
        response = await publishing.publish(self._store, self._changes, self._workers, requests)
        return response.SerializeToString()

    async def _watch_parameters(self, message: bytes, context: Context) -> None:
        await publishing.watch(self._store, self._changes, self._drain, message, context)
