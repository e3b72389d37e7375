from replayring_proto.v1 import buffer_pb2 as _buffer_pb2
from replayring_proto.v1 import pack_pb2 as _pack_pb2
from replayring_proto.v1 import server_status_pb2 as _server_status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateBufferRequest(_message.Message):
    __slots__ = ("name", "spec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: _buffer_pb2.BufferSpec
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[_buffer_pb2.BufferSpec, _Mapping]] = ...) -> None: ...

class CreateBufferResponse(_message.Message):
    __slots__ = ("buffer", "created")
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    buffer: _buffer_pb2.BufferInfo
    created: bool
    def __init__(self, buffer: _Optional[_Union[_buffer_pb2.BufferInfo, _Mapping]] = ..., created: bool = ...) -> None: ...

class GetBufferRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetBufferResponse(_message.Message):
    __slots__ = ("buffer",)
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    buffer: _buffer_pb2.BufferInfo
    def __init__(self, buffer: _Optional[_Union[_buffer_pb2.BufferInfo, _Mapping]] = ...) -> None: ...

class ListBuffersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBuffersResponse(_message.Message):
    __slots__ = ("buffers", "next_page_token")
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    buffers: _containers.RepeatedCompositeFieldContainer[_buffer_pb2.BufferInfo]
    next_page_token: str
    def __init__(self, buffers: _Optional[_Iterable[_Union[_buffer_pb2.BufferInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteBufferRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteBufferResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AddEpisodesRequest(_message.Message):
    __slots__ = ("pack", "data", "start", "sequence", "episodes")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    start: AddEpisodesStart
    sequence: int
    episodes: _containers.RepeatedCompositeFieldContainer[WholeEpisode]
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., start: _Optional[_Union[AddEpisodesStart, _Mapping]] = ..., sequence: _Optional[int] = ..., episodes: _Optional[_Iterable[_Union[WholeEpisode, _Mapping]]] = ...) -> None: ...

class WholeEpisode(_message.Message):
    __slots__ = ("pack", "data", "sequence")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    sequence: int
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., sequence: _Optional[int] = ...) -> None: ...

class AddEpisodesStart(_message.Message):
    __slots__ = ("buffer", "writer_id")
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    buffer: str
    writer_id: str
    def __init__(self, buffer: _Optional[str] = ..., writer_id: _Optional[str] = ...) -> None: ...

class AddEpisodesResponse(_message.Message):
    __slots__ = ("acknowledgements",)
    ACKNOWLEDGEMENTS_FIELD_NUMBER: _ClassVar[int]
    acknowledgements: _containers.RepeatedCompositeFieldContainer[Acknowledgement]
    def __init__(self, acknowledgements: _Optional[_Iterable[_Union[Acknowledgement, _Mapping]]] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("sequence", "episode_index", "index", "num_frames", "duplicate")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EPISODE_INDEX_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    episode_index: int
    index: int
    num_frames: int
    duplicate: bool
    def __init__(self, sequence: _Optional[int] = ..., episode_index: _Optional[int] = ..., index: _Optional[int] = ..., num_frames: _Optional[int] = ..., duplicate: bool = ...) -> None: ...

class GetItemRequest(_message.Message):
    __slots__ = ("buffer", "positions", "indices", "view")
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    buffer: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    view: _buffer_pb2.View
    def __init__(self, buffer: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ..., indices: _Optional[_Iterable[int]] = ..., view: _Optional[_Union[_buffer_pb2.View, _Mapping]] = ...) -> None: ...

class GetItemResponse(_message.Message):
    __slots__ = ("pack", "data")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class SampleBatchRequest(_message.Message):
    __slots__ = ("spec", "batches")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    spec: SampleSpec
    batches: int
    def __init__(self, spec: _Optional[_Union[SampleSpec, _Mapping]] = ..., batches: _Optional[int] = ...) -> None: ...

class SampleSpec(_message.Message):
    __slots__ = ("buffer", "batch_size", "view", "drop_n_last_frames", "min_frames", "seed", "batches_per_pack", "count_eligible")
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    DROP_N_LAST_FRAMES_FIELD_NUMBER: _ClassVar[int]
    MIN_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_PER_PACK_FIELD_NUMBER: _ClassVar[int]
    COUNT_ELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    buffer: str
    batch_size: int
    view: _buffer_pb2.View
    drop_n_last_frames: int
    min_frames: int
    seed: int
    batches_per_pack: int
    count_eligible: bool
    def __init__(self, buffer: _Optional[str] = ..., batch_size: _Optional[int] = ..., view: _Optional[_Union[_buffer_pb2.View, _Mapping]] = ..., drop_n_last_frames: _Optional[int] = ..., min_frames: _Optional[int] = ..., seed: _Optional[int] = ..., batches_per_pack: _Optional[int] = ..., count_eligible: bool = ...) -> None: ...

class SampleBatchResponse(_message.Message):
    __slots__ = ("pack", "data", "next_index", "batches", "eligible_frames")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ELIGIBLE_FRAMES_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    next_index: int
    batches: int
    eligible_frames: int
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., next_index: _Optional[int] = ..., batches: _Optional[int] = ..., eligible_frames: _Optional[int] = ...) -> None: ...

class ReadColumnRequest(_message.Message):
    __slots__ = ("buffer", "keys")
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    buffer: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, buffer: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadColumnResponse(_message.Message):
    __slots__ = ("pack", "data")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PublishParametersRequest(_message.Message):
    __slots__ = ("pack", "data", "name", "min_version")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    name: str
    min_version: int
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., name: _Optional[str] = ..., min_version: _Optional[int] = ...) -> None: ...

class PublishParametersResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class WatchParametersRequest(_message.Message):
    __slots__ = ("name", "after_version", "follow")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_version: int
    follow: bool
    def __init__(self, name: _Optional[str] = ..., after_version: _Optional[int] = ..., follow: bool = ...) -> None: ...

class WatchParametersResponse(_message.Message):
    __slots__ = ("pack", "data", "version")
    PACK_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    pack: _pack_pb2.PackHeader
    data: bytes
    version: int
    def __init__(self, pack: _Optional[_Union[_pack_pb2.PackHeader, _Mapping]] = ..., data: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class GetServerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: _server_status_pb2.ServerStatus
    def __init__(self, status: _Optional[_Union[_server_status_pb2.ServerStatus, _Mapping]] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("kind", "message")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
