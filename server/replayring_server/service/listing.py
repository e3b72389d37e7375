"""ListBuffers: a page at a time, as https://google.aip.dev/158 has it."""

from __future__ import annotations

from replayring_proto.limits import MAX_PAGE_SIZE, PAGE_BYTES
from replayring_proto.messages import info_to_message
from replayring_proto.v1 import replay_pb2
from replayring_server.engine import Store


def list_buffers(
    store: Store, request: replay_pb2.ListBuffersRequest
) -> replay_pb2.ListBuffersResponse:
    """Answers ListBuffers. A page's token is the name of its last buffer."""
    page_size = min(request.page_size or MAX_PAGE_SIZE, MAX_PAGE_SIZE)
    response = replay_pb2.ListBuffersResponse()
    nbytes, last = 0, ""
    for buffer in store.buffers():
        if buffer.name <= request.page_token:
            continue
        if len(response.buffers) == page_size or nbytes >= PAGE_BYTES:
            response.next_page_token = last
            break
        info = info_to_message(buffer.info())
        nbytes += info.ByteSize()
        response.buffers.append(info)
        last = buffer.name
    return response
