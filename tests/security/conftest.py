"""Authorities and certificates, made once: making them takes longer than using them."""

from __future__ import annotations

import pytest

from tests.certificates import Authority, Pair


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that everybody should trust."""
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody knows."""
    return Authority(tmp_path_factory.mktemp("stranger") / "ca")


@pytest.fixture(scope="session")
def pair(authority: Authority) -> Pair:
    """A certificate for this machine, and its key."""
    return authority.issue()


@pytest.fixture(autouse=True)
def no_token_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests give tokens themselves."""
    monkeypatch.delenv("REPLAYRING_TOKEN", raising=False)
    monkeypatch.delenv("REPLAYRING_TOKEN_FILE", raising=False)
