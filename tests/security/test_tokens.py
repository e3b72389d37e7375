"""A server's file of tokens: its rules, and that no error shows one."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

import pytest

from replayring_proto.errors import InvalidRequestError, LimitExceededError, StorageError
from replayring_proto.limits import MAX_TOKEN_LENGTH, MAX_TOKENS, MIN_TOKEN_LENGTH
from replayring_proto.tokens import check_token
from replayring_server.security.tokens import Scope, Tokens, digest_of
from tests.certificates import READ, UNKNOWN, WRITE, token_file
from tests.support import refusal_of

SHORT = "x" * (MIN_TOKEN_LENGTH - 1)
LONG = "x" * (MAX_TOKEN_LENGTH + 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_scopes_comments_and_blanks(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["# the robots", "", f"  write\t{WRITE}  ", f"#read {UNKNOWN}", f"read {READ}\r"]
    with caplog.at_level(logging.INFO):
        tokens = Tokens(token_file(path, *lines))
    assert tokens.scope_of(digest_of(WRITE)) is Scope.WRITE
    assert tokens.scope_of(digest_of(READ)) is Scope.READ
    assert tokens.scope_of(digest_of(UNKNOWN)) is None
    assert tokens.scope_of(digest_of("")) is None
    assert f"{path}: tokens to read: 1, to write: 1" in caplog.text


BAD = {
    "too short": (f"read {SHORT}", f"has {len(SHORT)} characters; it must have from 32 to 1,024"),
    "too long": (f"read {LONG}", "has 1,025 characters"),
    "odd character": (f"read {UNKNOWN}é", "a character other than"),
    "equals sign within": (f"read {UNKNOWN}={UNKNOWN}", "with = at its end only"),
    "no scope": (UNKNOWN, "is not `write TOKEN` or `read TOKEN`"),
    "unknown scope": (f"admin {UNKNOWN}", "is not `write TOKEN` or `read TOKEN`"),
    "scope after token": (f"{UNKNOWN} read", "is not `write TOKEN` or `read TOKEN`"),
    "three words": (f"read {UNKNOWN} {SHORT}", "is not `write TOKEN` or `read TOKEN`"),
    "scope alone": ("read", "is not `write TOKEN` or `read TOKEN`"),
    "twice": (f"read {WRITE}", "has the token of line 1 again"),
}


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=BAD)
def test_bad_line_is_refused_by_its_number_and_never_shown(
    path: Path, line: str, words: str
) -> None:
    token_file(path, f"write {WRITE}", "# next", line)
    with pytest.raises(InvalidRequestError) as caught:
        Tokens(path)
    text = str(caught.value)
    assert f"line 3 of {path}" in text
    assert words in text
    for secret in (WRITE, UNKNOWN, SHORT, LONG):
        assert secret not in text
    assert caught.value.__cause__ is None


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"read " + b"\xff" * 40)
    with pytest.raises(InvalidRequestError, match="line 1"):
        Tokens(path)


def test_file_without_tokens_is_refused(path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has no token, so nobody could call"):
        Tokens(token_file(path, "# none yet"))


def test_file_with_too_many_tokens_is_refused(path: Path) -> None:
    lines = [f"read {number:040d}" for number in range(MAX_TOKENS)]
    Tokens(token_file(path, *lines))
    with pytest.raises(LimitExceededError, match=r"received 1,025, the limit is 1,024"):
        Tokens(token_file(path, *lines, f"read {UNKNOWN}"))


def test_server_refuses_a_file_that_is_missing(tmp_path: Path) -> None:
    flags = ["--listen", "127.0.0.1:0", "--token-file", str(tmp_path / "none")]
    line = refusal_of("--data-dir", str(tmp_path / "data"), *flags)
    assert f"cannot read {tmp_path / 'none'}: No such file" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("sent", [WRITE, READ, UNKNOWN])
def test_a_token_is_compared_with_every_other_in_constant_time(
    path: Path, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(token_file(path, f"write {WRITE}", f"read {READ}", f"read {'z' * 40}"))
    lengths: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare_digest(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    tokens.scope_of(digest_of(sent))
    assert lengths == [(32, 32)] * 3


def test_a_failed_reload_changes_nothing(path: Path) -> None:
    tokens = Tokens(token_file(path))
    token_file(path, f"read {UNKNOWN}", "nonsense")
    with pytest.raises(InvalidRequestError, match="line 2"):
        tokens.reload()
    path.unlink()
    with pytest.raises(StorageError, match="cannot read"):
        tokens.reload()
    assert tokens.scope_of(digest_of(WRITE)) is Scope.WRITE
    assert tokens.scope_of(digest_of(UNKNOWN)) is None


@pytest.mark.parametrize(
    "token", ["x" * MIN_TOKEN_LENGTH, "x" * MAX_TOKEN_LENGTH, "aZ09-._~+/" * 4 + "=="]
)
def test_what_a_token_may_be(token: str) -> None:
    assert check_token(token, "here") == token
