"""A model on a server, over the V1 protocol."""

import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import requests

from supcon_tf.core.errors import UserError
from supcon_tf.stages.label_scores import class_texts

_CONNECT_SECONDS, _ANSWER_SECONDS = 10, 120
# Waits before asking again, in seconds: short for a wrong address, half a minute for a server that
# restarts in the middle of the work.
_FIRST_WAITS, _LATER_WAITS = (0.2, 0.4), (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_INTERRUPTED = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
_OF_IMAGES = (400, 413, 415, 422)


class AnswerError(UserError):
    """The server's answer was not 200.

    Args:
        status: of the answer.
        reason: as the server gives it.
        of_image: whether an image may be at fault: it is no image or too large, or the model gives
            NaN for it (500 with an error as JSON).
    """

    def __init__(self, status: int, reason: str, of_image: bool):
        super().__init__(f"the server answered {status}: {reason}")
        self.of_image = of_image


class RefusedError(AnswerError):
    """The server answered 4xx: asking again does not help."""


class RemoteModel:
    """A model on a server.

    Args:
        address: `http://HOST:PORT` of a server with one model, or `.../v1/models/NAME`.

    Attributes:
        class_names: C names.
        multi_label: whether an image may have any number of them.

    Raises:
        UserError: if there is no such server, or it has several models.
    """

    def __init__(self, address: str):
        self._address, self._waits = address.rstrip("/"), _FIRST_WAITS
        self._session = requests.Session()
        self._url = self._model_url()
        self.class_names, self.multi_label = self._classes()
        self._waits = _LATER_WAITS

    def _model_url(self) -> str:
        if "/v1/models/" in self._address:
            return self._address.removesuffix(":predict")
        try:
            models = _texts(self._ask(f"{self._address}/v1/models")["models"])
        except (KeyError, TypeError, RefusedError) as error:
            raise self._foreign("it lists no models") from error
        if len(models) != 1:
            raise UserError(
                f"server {self._address} has {len(models)} models ({', '.join(models)}). Give "
                f"--model={self._address}/v1/models/NAME for one of them."
            )
        return f"{self._address}/v1/models/{models[0]}"

    def _classes(self) -> tuple[list[str], bool]:
        try:
            metadata = self._ask(f"{self._url}/metadata")["metadata"]
            return _texts(metadata["class_names"]), metadata.get("multi_label") is True
        except RefusedError as error:
            raise UserError(f"{error} Received: --model={self._address}.") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise self._foreign("its metadata names no classes") from error

    def _foreign(self, what: str) -> UserError:
        return UserError(
            f"server {self._address} does not answer as supcon-tf serve does: {what}. Check the "
            "address."
        )

    def _ask(self, url: str, body: Any = None) -> Any:
        """The JSON of the server's answer, None if it has none; a POST if there is a body."""
        try:
            answer = self._send(url, body)
        except requests.RequestException as error:
            raise UserError(
                f"server {self._address} cannot be reached ({_cause(error)}). Check the address, "
                "and that the server is running."
            ) from error
        try:
            content = answer.json()
        except (ValueError, RecursionError):
            content = None
        if answer.status_code == 200:
            return content
        reason = content.get("error") if isinstance(content, dict) else None
        status = answer.status_code
        kind = RefusedError if 400 <= status < 500 else AnswerError
        of_image = status in _OF_IMAGES or (status == 500 and reason is not None)
        raise kind(status, reason or answer.reason, of_image)

    def _send(self, url, body) -> requests.Response:
        """Asks, and asks again later if the server is busy (503) or the connection breaks off."""
        method, timeout = "GET" if body is None else "POST", (_CONNECT_SECONDS, _ANSWER_SECONDS)
        for wait in self._waits:
            try:
                answer = self._session.request(method, url, json=body, timeout=timeout)
                if answer.status_code != 503:
                    return answer
            except _INTERRUPTED:
                pass
            time.sleep(wait)
        return self._session.request(method, url, json=body, timeout=timeout)

    def __call__(self, batch: Sequence[bytes]) -> list[np.ndarray | str]:
        """Classifies a batch; if it is refused, the images at fault are found by halving it.

        Args:
            batch: the contents of B image files.

        Returns:
            For each image its probabilities float32 [C], or why it is refused, as a sentence.

        Raises:
            UserError: if the server does not answer, answers wrongly, or refuses for a reason other
                than an image.
        """
        try:
            return list(self._probabilities(batch))
        except AnswerError as error:
            if not error.of_image:
                raise
            if len(batch) == 1:
                return [str(error).replace("instance 0", "the image", 1)]
        half = len(batch) // 2
        return [*self(batch[:half]), *self(batch[half:])]

    def _probabilities(self, images: Sequence[bytes]) -> np.ndarray:
        instances = [{"b64": b64encode(encoded).decode()} for encoded in images]
        answer = self._ask(f"{self._url}:predict", {"instances": instances})
        try:
            found = [one["probabilities"] for one in answer["predictions"]]
            with np.errstate(over="ignore"):
                found = np.asarray(found, np.float32)  # [B, C]
            best = [one["class_name"] for one in answer["predictions"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._foreign("its answer holds no probabilities") from error
        shape = (len(images), len(self.class_names))
        if found.shape != shape:
            raise self._foreign(f"probabilities {list(found.shape)} instead of {list(shape)}")
        if not ((found >= 0) & (found <= 1)).all():
            raise self._foreign("its probabilities are not between 0 and 1")
        if best != class_texts(found, self.class_names, self.multi_label):
            raise UserError(
                f"the model of {self._address} changed during the request. Start again."
            )
        return found


def _texts(value) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise TypeError
    return value


def _cause(error: BaseException) -> str:
    """The root of an exception, in a few words."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error)
