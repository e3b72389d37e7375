"""Errors cross the wire: class and message arrive as they were sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from replayring_proto import errors
from replayring_proto.errors import ReplayRingError
from replayring_proto.status import DETAIL_KEY, from_status, to_status
from replayring_proto.v1 import replay_pb2

CODES: dict[type[ReplayRingError], StatusCode] = {
    errors.InvalidRequestError: StatusCode.INVALID_ARGUMENT,
    errors.InvalidSpecError: StatusCode.INVALID_ARGUMENT,
    errors.InvalidEpisodeError: StatusCode.INVALID_ARGUMENT,
    errors.MalformedMessageError: StatusCode.INVALID_ARGUMENT,
    errors.LimitExceededError: StatusCode.RESOURCE_EXHAUSTED,
    errors.DiskSpaceError: StatusCode.RESOURCE_EXHAUSTED,
    errors.NotFoundError: StatusCode.NOT_FOUND,
    errors.FrameNotFoundError: StatusCode.OUT_OF_RANGE,
    errors.AlreadyExistsError: StatusCode.ALREADY_EXISTS,
    errors.SequenceReusedError: StatusCode.ALREADY_EXISTS,
    errors.ToleranceError: StatusCode.FAILED_PRECONDITION,
    errors.OvertakenError: StatusCode.ABORTED,
    errors.DeadlineError: StatusCode.DEADLINE_EXCEEDED,
    errors.ServerUnavailableError: StatusCode.UNAVAILABLE,
    errors.StorageError: StatusCode.DATA_LOSS,
    errors.AccessDeniedError: StatusCode.PERMISSION_DENIED,
    errors.UnauthenticatedError: StatusCode.UNAUTHENTICATED,
    errors.ServerError: StatusCode.INTERNAL,
}
"""What replay.proto says each error of a call is, written out once more."""

STAYS_HOME = {
    errors.ReplayRingError,
    errors.ClosedError,
    errors.DirectoryLockedError,
    errors.TLSError,
}
"""Errors of one side alone; should one reach the wire, it is a failure of the server."""


@dataclass
class Call:
    """What grpc shows of a failed call."""

    status: StatusCode
    text: str | None = None
    metadata: Any = ()

    def code(self) -> StatusCode:
        return self.status

    def details(self) -> str | None:
        return self.text

    def trailing_metadata(self) -> Any:
        return self.metadata


def over_the_wire(error: ReplayRingError) -> ReplayRingError:
    return from_status(Call(*to_status(error)))


def detail(kind: str, message: str) -> tuple[tuple[str, bytes], ...]:
    encoded = replay_pb2.ErrorDetail(kind=kind, message=message).SerializeToString()
    return (("other-key", b"x"), (DETAIL_KEY, encoded))


def test_every_class_of_the_tree_has_its_place_in_the_table() -> None:
    assert {cls.__name__ for cls in {*CODES, *STAYS_HOME}} == set(errors.__all__)


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.__name__)
def test_an_error_arrives_as_the_class_and_message_it_was(cls: type[ReplayRingError]) -> None:
    error = cls("received 'é', the limit is 3")
    code, text, _ = to_status(error)
    assert code is CODES[cls]
    assert text == str(error)
    arrived = over_the_wire(error)
    assert type(arrived) is cls
    assert str(arrived) == str(error)


@pytest.mark.parametrize("cls", STAYS_HOME, ids=lambda cls: cls.__name__)
def test_an_error_of_the_servers_own_arrives_as_its_base(cls: type[ReplayRingError]) -> None:
    expected = errors.StorageError if issubclass(cls, errors.StorageError) else errors.ServerError
    assert type(over_the_wire(cls("disk"))) is expected


def test_a_class_that_peers_do_not_know_arrives_as_its_base() -> None:
    class NewerError(errors.InvalidSpecError):
        """Of a later version."""

    assert type(over_the_wire(NewerError("x"))) is errors.InvalidSpecError


@pytest.mark.parametrize("code", StatusCode)
def test_a_bare_status_becomes_an_error_of_ours(code: StatusCode) -> None:
    """Gateways, proxies and gRPC itself send no detail."""
    error = from_status(Call(code, "by a proxy", None))
    general = [cls for cls, each in CODES.items() if each is code]
    expected = general[0] if general else errors.ServerError
    if code is StatusCode.CANCELLED:
        expected = errors.ServerUnavailableError
    assert type(error) is expected
    assert code.name in str(error)
    assert "by a proxy" in str(error)


def test_an_unknown_call_says_that_the_address_or_the_version_is_another() -> None:
    error = from_status(Call(StatusCode.UNIMPLEMENTED, "Method not found!", None))
    assert "another service (--health-listen is one), or an older replayring" in str(error)


@pytest.mark.parametrize(
    "metadata", [(), None, detail("NewerError", "of a later version"), ((DETAIL_KEY, b"\xff\xff"),)]
)
def test_a_detail_that_says_nothing_known_leaves_the_status_to_decide(metadata: Any) -> None:
    error = from_status(Call(StatusCode.NOT_FOUND, "gone", metadata))
    assert type(error) is errors.NotFoundError
    assert str(error) == "NOT_FOUND: gone"


@pytest.mark.parametrize(
    "kind", ["DirectoryLockedError", "ReplayRingError", "SystemExit", "__import__"]
)
def test_a_peer_cannot_name_a_class_outside_the_table(kind: str) -> None:
    assert (
        type(from_status(Call(StatusCode.INTERNAL, "x", detail(kind, "y")))) is errors.ServerError
    )


def test_no_details_are_said_to_be_none() -> None:
    assert str(from_status(Call(StatusCode.UNKNOWN))) == "UNKNOWN: no details were given"


@settings(max_examples=100)
@given(st.text(st.characters(), max_size=50), st.integers(1, 400))
def test_any_message_fits_the_metadata_limit(piece: str, times: int) -> None:
    """8 KiB as HTTP/2 carries it, of text that may be anything a peer named something."""
    text = (piece * times).encode(errors="replace").decode()
    _, status, ((_, encoded),) = to_status(errors.NotFoundError(piece * times))
    plain = [0x20 <= byte < 0x7F and byte != ord("%") for byte in status.encode()]
    assert sum(1 if one else 3 for one in plain) <= 1024
    assert len(encoded) <= 4096 + 100  # and a third more in base64
    assert text.startswith(status)
    assert text.startswith(replay_pb2.ErrorDetail.FromString(encoded).message)
    if len(text.encode()) <= 1024:
        assert str(over_the_wire(errors.NotFoundError(text))) == text


def test_a_file_name_that_is_no_unicode_does_not_break_the_message() -> None:
    assert str(over_the_wire(errors.NotFoundError("no \udcff here"))) == "no ? here"


def test_the_key_of_the_detail_is_the_documented_one() -> None:
    assert DETAIL_KEY == "replayring-error-bin"
    assert grpc.StatusCode.OK not in CODES.values()
