"""PublishParameters and WatchParameters: the way back from the learner to the actors."""

from __future__ import annotations

from functools import partial

from replayring_proto.errors import MalformedMessageError, NotFoundError
from replayring_proto.framing import decode_frame
from replayring_proto.messages import parse
from replayring_proto.spec import check_name
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import ParameterSet, Store
from replayring_server.service.boundary import Context, Requests
from replayring_server.service.changes import Changes
from replayring_server.service.drain import Drain
from replayring_server.service.packs import PackReceiver, send_pack
from replayring_server.service.workers import Workers


async def publish(
    store: Store, changes: Changes, workers: Workers, requests: Requests
) -> replay_pb2.PublishParametersResponse:
    """Answers PublishParameters."""
    receiver = PackReceiver(store.limits.max_parameters_bytes, "parameters")
    name, pack = "", None
    async for message in requests:
        frame = decode_frame(message)
        if pack is not None:
            raise MalformedMessageError("a message came after the parameters were complete")
        if frame.rest:
            name = parse(replay_pb2.PublishParametersRequest, frame.rest).name
        if frame.header is not None:
            check_name(name, "parameters' name")
        pack = receiver.add(frame)
    receiver.finish()
    if pack is None:
        raise MalformedMessageError("the call ended without any parameters")
    version = await workers.change(
        partial(store.parameters.publish, name, pack),
        then=partial(changes.notify, ("parameters", name)),
    )
    return replay_pb2.PublishParametersResponse(version=version)


async def watch(
    store: Store, changes: Changes, drain: Drain, message: bytes, context: Context
) -> None:
    """Answers WatchParameters. A slow reader holds up `send_pack`, so it skips versions."""
    request = parse(replay_pb2.WatchParametersRequest, message)
    check_name(request.name, "parameters' name")
    sent = request.after_version
    if not request.follow:
        await _send(context, _newer(store, request.name, sent))
        return
    while True:
        seen = changes.count(("parameters", request.name))
        try:
            newest = _newer(store, request.name, sent)
        except NotFoundError:
            with drain.waiting():
                await changes.beyond(("parameters", request.name), seen)
        else:
            await _send(context, newest)
            sent = newest.version


def _newer(store: Store, name: str, version: int) -> ParameterSet:
    newest = store.parameters.get(name)
    if newest.version <= version:
        raise NotFoundError(
            f"parameters {name!r} have no version above {version}; the newest is {newest.version}"
        )
    return newest


async def _send(context: Context, parameters: ParameterSet) -> None:
    rest = replay_pb2.WatchParametersResponse(version=parameters.version)
    await send_pack(context, parameters.pack, rest.SerializeToString())
