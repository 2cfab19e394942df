"""Faults of a request: an HTTP status and one clear sentence."""

import itertools
from http import HTTPStatus
from typing import Any

_SHOWN = 60  # Characters of a received value that a message repeats.


class RequestError(Exception):
    """A request that is not served, through its own fault, the load's, or the model's.

    Args:
        message: one sentence: what was wrong, the value received, what to do.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int = HTTPStatus.BAD_REQUEST):
        super().__init__(message)
        self.message, self.status = message, int(status)


class NotFoundError(RequestError):
    """There is no such model, version or picture."""

    def __init__(self, message: str):
        super().__init__(message, HTTPStatus.NOT_FOUND)


class BusyError(RequestError):
    """The queue or the memory for requests is full; the same request may succeed in a moment."""

    def __init__(self, message: str):
        super().__init__(f"{message} Try again in a second.", HTTPStatus.SERVICE_UNAVAILABLE)


class ServerFailedError(RequestError):
    """The server or the model failed; the log has the traceback."""

    def __init__(self, what: str):
        super().__init__(f"{what}; the server's log says why.", HTTPStatus.INTERNAL_SERVER_ERROR)


def shown(value: Any) -> str:
    """A received value as a message may repeat it: short, on one line, whatever it is.

    Args:
        value: anything that JSON can hold, or bytes.
    """
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value == {}:
        return "an empty object"
    if isinstance(value, dict):
        return "an object with the keys " + shown(", ".join(itertools.islice(value, 5)))
    if isinstance(value, bytes):
        return f"{len(value)} bytes that begin with {value[:12]!r}"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}... of {len(value)} characters"
    return repr(value)[: 2 * _SHOWN]
