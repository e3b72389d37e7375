from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServerStatus(_message.Message):
    __slots__ = ("version", "uptime_s", "buffers", "num_buffers", "parameters", "methods", "limits", "peers", "received_bytes", "sent_bytes", "disk_free_bytes", "disk_size_bytes", "resident_bytes", "warnings")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    BUFFERS_FIELD_NUMBER: _ClassVar[int]
    NUM_BUFFERS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_s: float
    buffers: _containers.RepeatedCompositeFieldContainer[BufferStatus]
    num_buffers: int
    parameters: _containers.RepeatedCompositeFieldContainer[ParametersStatus]
    methods: _containers.RepeatedCompositeFieldContainer[MethodStatus]
    limits: _containers.RepeatedCompositeFieldContainer[LimitUse]
    peers: int
    received_bytes: int
    sent_bytes: int
    disk_free_bytes: int
    disk_size_bytes: int
    resident_bytes: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., buffers: _Optional[_Iterable[_Union[BufferStatus, _Mapping]]] = ..., num_buffers: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[ParametersStatus, _Mapping]]] = ..., methods: _Optional[_Iterable[_Union[MethodStatus, _Mapping]]] = ..., limits: _Optional[_Iterable[_Union[LimitUse, _Mapping]]] = ..., peers: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_size_bytes: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class BufferStatus(_message.Message):
    __slots__ = ("name", "buffer_id", "capacity", "oldest_index", "next_index", "num_episodes", "next_episode_index", "opened_index", "durable_index", "disk_bytes", "duplicates", "batches_sampled", "frames_sampled", "syncs", "num_writers", "writers_quiet", "writers", "opened_episode_index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUFFER_ID_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    OLDEST_INDEX_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    NUM_EPISODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_EPISODE_INDEX_FIELD_NUMBER: _ClassVar[int]
    OPENED_INDEX_FIELD_NUMBER: _ClassVar[int]
    DURABLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    BATCHES_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_SAMPLED_FIELD_NUMBER: _ClassVar[int]
    SYNCS_FIELD_NUMBER: _ClassVar[int]
    NUM_WRITERS_FIELD_NUMBER: _ClassVar[int]
    WRITERS_QUIET_FIELD_NUMBER: _ClassVar[int]
    WRITERS_FIELD_NUMBER: _ClassVar[int]
    OPENED_EPISODE_INDEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    buffer_id: str
    capacity: int
    oldest_index: int
    next_index: int
    num_episodes: int
    next_episode_index: int
    opened_index: int
    durable_index: int
    disk_bytes: int
    duplicates: int
    batches_sampled: int
    frames_sampled: int
    syncs: Durations
    num_writers: int
    writers_quiet: Durations
    writers: _containers.RepeatedCompositeFieldContainer[WriterStatus]
    opened_episode_index: int
    def __init__(self, name: _Optional[str] = ..., buffer_id: _Optional[str] = ..., capacity: _Optional[int] = ..., oldest_index: _Optional[int] = ..., next_index: _Optional[int] = ..., num_episodes: _Optional[int] = ..., next_episode_index: _Optional[int] = ..., opened_index: _Optional[int] = ..., durable_index: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., duplicates: _Optional[int] = ..., batches_sampled: _Optional[int] = ..., frames_sampled: _Optional[int] = ..., syncs: _Optional[_Union[Durations, _Mapping]] = ..., num_writers: _Optional[int] = ..., writers_quiet: _Optional[_Union[Durations, _Mapping]] = ..., writers: _Optional[_Iterable[_Union[WriterStatus, _Mapping]]] = ..., opened_episode_index: _Optional[int] = ...) -> None: ...

class WriterStatus(_message.Message):
    __slots__ = ("writer_id", "quiet_s", "sequence", "connected")
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    QUIET_S_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    writer_id: str
    quiet_s: float
    sequence: int
    connected: bool
    def __init__(self, writer_id: _Optional[str] = ..., quiet_s: _Optional[float] = ..., sequence: _Optional[int] = ..., connected: bool = ...) -> None: ...

class ParametersStatus(_message.Message):
    __slots__ = ("name", "version", "nbytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    nbytes: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., nbytes: _Optional[int] = ...) -> None: ...

class MethodStatus(_message.Message):
    __slots__ = ("name", "in_flight", "finished", "work")
    class FinishedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    name: str
    in_flight: int
    finished: _containers.ScalarMap[str, int]
    work: Durations
    def __init__(self, name: _Optional[str] = ..., in_flight: _Optional[int] = ..., finished: _Optional[_Mapping[str, int]] = ..., work: _Optional[_Union[Durations, _Mapping]] = ...) -> None: ...

class Durations(_message.Message):
    __slots__ = ("bounds_s", "counts", "sum_s")
    BOUNDS_S_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_S_FIELD_NUMBER: _ClassVar[int]
    bounds_s: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum_s: float
    def __init__(self, bounds_s: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., sum_s: _Optional[float] = ...) -> None: ...

class LimitUse(_message.Message):
    __slots__ = ("name", "used", "limit", "waiting")
    NAME_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    name: str
    used: int
    limit: int
    waiting: int
    def __init__(self, name: _Optional[str] = ..., used: _Optional[int] = ..., limit: _Optional[int] = ..., waiting: _Optional[int] = ...) -> None: ...
