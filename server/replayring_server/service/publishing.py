"""PublishParameters and WatchParameters: the way back from the learner to the actors."""

from __future__ import annotations

from functools import partial

from replayring_proto.errors import MalformedMessageError, NotFoundError
from replayring_proto.framing import decode_frame
from replayring_proto.messages import parse
from replayring_proto.pack import Pack, PackAssembler
from replayring_proto.spec import check_name
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Store
from replayring_server.service.calls import Call, Calls
from replayring_server.service.changes import Changes
from replayring_server.service.packs import PackReceiver, send_pack
from replayring_server.service.workers import Lane, Workers


async def publish(
    store: Store, changes: Changes, workers: Workers, calls: Calls, call: Call
) -> bytes:
    """Answers PublishParameters."""
    receiver = PackReceiver(
        call, calls.staging, store.limits, "max_parameters_bytes", "parameters", PackAssembler
    )
    fields, pack = replay_pb2.PublishParametersRequest(), None
    while (message := await call.read(midway=receiver.is_filling or pack is not None)) is not None:
        frame = decode_frame(message)
        if pack is not None:
            raise MalformedMessageError("a message came after the parameters were complete")
        if frame.rest:
            told = parse(replay_pb2.PublishParametersRequest, frame.rest)
            if receiver.is_filling and told.name not in ("", fields.name):
                raise MalformedMessageError(
                    f"parameters {fields.name!r} go on under the name {told.name!r}; set `name` "
                    "with `pack`, once"
                )
            fields.MergeFrom(told)  # those after the first may hold what only newer peers know
        if frame.header is not None:
            check_name(fields.name, "parameters' name")
        pack = await receiver.add(frame)
    receiver.finish()
    if pack is None:
        raise MalformedMessageError("the call ended without any parameters")
    hold = call.pass_on()

    def published_or_not() -> None:
        hold.release()
        changes.notify(("parameters", fields.name))

    version = await workers.change(
        Lane.PUBLISH, partial(_publish, store, fields, pack), then=published_or_not
    )
    return replay_pb2.PublishParametersResponse(version=version).SerializeToString()


def _publish(store: Store, fields: replay_pb2.PublishParametersRequest, pack: Pack) -> int:
    pack.layout.check_bools(pack.arrays)
    return store.parameters.publish(fields.name, pack, fields.min_version)


async def watch(store: Store, changes: Changes, calls: Calls, call: Call) -> None:
    """Answers WatchParameters. A slow reader holds up `send_pack`, so it skips versions."""
    request = parse(replay_pb2.WatchParametersRequest, await call.request())
    check_name(request.name, "parameters' name")
    if request.follow:
        with calls.watching():
            await _follow(store, changes, call, request.name, request.after_version)
    else:
        await _send(store, call, request.name, request.after_version)


async def _follow(store: Store, changes: Changes, call: Call, name: str, sent: int) -> None:
    with changes.watch(("parameters", name)) as watch:
        while True:
            try:
                sent = await _send(store, call, name, sent)
            except NotFoundError:
                with call.resting():
                    await watch.change()


async def _send(store: Store, call: Call, name: str, after_version: int) -> int:
    """Sends the newest version and returns its number.

    Versions are shared by all who are being sent them, so they are no call's to hold memory for.
    One that stalls would keep an old one alive alone: it is ended once there is a newer one.

    Raises:
        NotFoundError: there is none above `after_version`.
    """
    newest = store.parameters.get(name)
    version = newest.version
    if version <= after_version:
        raise NotFoundError(
            f"parameters {name!r} have no version above {after_version}; the newest is {version}"
        )
    call.unwanted = lambda: store.parameters.get(name).version > version
    rest = replay_pb2.WatchParametersResponse(version=version)
    await send_pack(call, newest.pack, rest.SerializeToString())
    return version
