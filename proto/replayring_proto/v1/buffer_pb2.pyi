from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_NONE: _ClassVar[Durability]
    DURABILITY_INTERVAL: _ClassVar[Durability]
    DURABILITY_COMMIT: _ClassVar[Durability]
DURABILITY_UNSPECIFIED: Durability
DURABILITY_NONE: Durability
DURABILITY_INTERVAL: Durability
DURABILITY_COMMIT: Durability

class ColumnSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class BufferSpec(_message.Message):
    __slots__ = ("columns", "capacity", "fps", "durability")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[ColumnSpec]
    capacity: int
    fps: float
    durability: Durability
    def __init__(self, columns: _Optional[_Iterable[_Union[ColumnSpec, _Mapping]]] = ..., capacity: _Optional[int] = ..., fps: _Optional[float] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class BufferInfo(_message.Message):
    __slots__ = ("name", "buffer_id", "spec", "oldest_index", "next_index", "num_episodes", "next_episode_index", "physical_rows", "disk_bytes", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUFFER_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    OLDEST_INDEX_FIELD_NUMBER: _ClassVar[int]
    NEXT_INDEX_FIELD_NUMBER: _ClassVar[int]
    NUM_EPISODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_EPISODE_INDEX_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    buffer_id: str
    spec: BufferSpec
    oldest_index: int
    next_index: int
    num_episodes: int
    next_episode_index: int
    physical_rows: int
    disk_bytes: int
    path: str
    def __init__(self, name: _Optional[str] = ..., buffer_id: _Optional[str] = ..., spec: _Optional[_Union[BufferSpec, _Mapping]] = ..., oldest_index: _Optional[int] = ..., next_index: _Optional[int] = ..., num_episodes: _Optional[int] = ..., next_episode_index: _Optional[int] = ..., physical_rows: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("keys", "windows", "tolerance_s")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_S_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    tolerance_s: float
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ..., tolerance_s: _Optional[float] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("key", "seconds", "frames")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    key: str
    seconds: TimeOffsets
    frames: FrameOffsets
    def __init__(self, key: _Optional[str] = ..., seconds: _Optional[_Union[TimeOffsets, _Mapping]] = ..., frames: _Optional[_Union[FrameOffsets, _Mapping]] = ...) -> None: ...

class TimeOffsets(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class FrameOffsets(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...
