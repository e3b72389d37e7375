"""What the server can do only with a library of an extra: the error for where it is missing."""

from __future__ import annotations

from replayring_proto.errors import InvalidRequestError


def needs_extra(what: str, extra: str, missing: ImportError) -> InvalidRequestError:
    """Returns the error for something whose library is not installed.

    Args:
        what: a flag or a value that asks for it.
        extra: what installs the library.
        missing: what importing it ended with.

    Raises:
        ImportError: what is missing is a module of our own.
    """
    package = (missing.name or "").partition(".")[0]
    if package.startswith("replayring"):
        raise missing
    return InvalidRequestError(
        f"{what} needs {package or 'a package'}, which is not installed: "
        f'pip install "replayring[{extra}]"'
    )
