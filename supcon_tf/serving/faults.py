"""What a request is answered with when it cannot be served: a status and one clear sentence."""

import itertools
from typing import Any

import orjson

_SHOWN = 60  # Characters of a received value that a message repeats.


class RequestError(Exception):
    """A request that is not served, through its own fault, the load's, or the model's.

    Args:
        message: one sentence: what was wrong, the value received, what to do.
    """

    status = 400

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


class BadRequestError(RequestError):
    """The request itself is wrong."""


class ForbiddenError(RequestError):
    """The request asks for something that this server never does."""

    status = 403


class NotFoundError(RequestError):
    """There is no such model, version or picture."""

    status = 404


class TooSlowError(RequestError):
    """The body did not arrive in time."""

    status = 408


class TooLargeError(RequestError):
    """More bytes or more images than a request may have."""

    status = 413


class EncodingError(RequestError):
    """The body is compressed."""

    status = 415


class ModelFailedError(RequestError):
    """The model itself failed on a batch; the log has the traceback."""

    status = 500


class BusyError(RequestError):
    """The queue or the memory for requests is full; the same request may succeed in a moment."""

    status = 503


class StoppingError(RequestError):
    """The server is about to end."""

    status = 503


def error_answer(status: int, message: str) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer to a request that is not served.

    Args:
        status: of HTTP.
        message: as `RequestError` has it.
    """
    body = orjson.dumps({"error": message})
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    return body, {**headers, "retry-after": "1"} if status == 503 else headers


def shown(value: Any) -> str:
    """A received value as a message may repeat it: short, on one line, whatever it is.

    Args:
        value: anything that JSON can hold, or bytes.
    """
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object with the keys " + shown(", ".join(itertools.islice(value, 5)))
    if isinstance(value, bytes):
        return f"{len(value)} bytes that begin with {value[:12]!r}"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}... of {len(value)} characters"
    return repr(value)[: 2 * _SHOWN]
