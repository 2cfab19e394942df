"""Several processes of one search: Keras Tuner's chief, which proposes, and its workers.

Keras Tuner's environment variables tell a process which one it is: one whose KERASTUNER_TUNER_ID
holds "chief" is the chief.
"""

import contextlib
import os
import socket
import sys
import time

import grpc

from supcon_tf.config.trials import ENVIRONMENT
from supcon_tf.core.errors import UserError
from supcon_tf.search.search_directory import SearchDirectory

# Seconds between two checks for something to do.
IDLE_SECONDS = 0.5
# Seconds until a message says that the chief does not answer.
_ANSWER_SECONDS = 3


def role_of_process() -> str:
    """The role of this process: "chief", "worker", or "alone".

    Raises:
        UserError: if the environment is incomplete, or the chief cannot listen on its address.
    """
    given = {name: os.environ.get(name, "") for name in ENVIRONMENT}
    if not any(name in os.environ for name in ENVIRONMENT):
        return "alone"
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UserError(f"chief and workers need {missing[0]} too. Set {', '.join(ENVIRONMENT)}.")
    name, host, port = given.values()
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"KERASTUNER_ORACLE_PORT must be a port. Received: {port!r}.")
    if "chief" not in name:
        return "worker"
    try:
        with socket.create_server((host, int(port))):
            return "chief"
    except OSError as error:
        raise UserError(
            f"the chief cannot listen on {_address()}: {error.strerror or error}. "
            "Give another KERASTUNER_ORACLE_IP or KERASTUNER_ORACLE_PORT."
        ) from error


def _address() -> str:
    return ":".join(os.environ.get(name, "") for name in ENVIRONMENT[1:])


def wait_for_chief(place: SearchDirectory) -> None:
    """Waits until the chief has begun the search, in a directory that is shared with it."""
    if not place.file.exists():
        print(f"waiting for the chief to begin {place.file}", file=sys.stderr, flush=True)
    while not place.file.exists():
        time.sleep(IDLE_SECONDS)


def run_tuner(tuner, role: str) -> None:
    """Runs trials, or as the chief proposes them to the workers, until none is left.

    Args:
        tuner: Keras Tuner's.
        role: as `role_of_process` gives it.

    Raises:
        UserError: if the chief is out of reach, or cannot listen.
    """
    try:
        if role == "worker":
            _say_whether_chief_answers()
        # Keras Tuner 1.4.8 prints a value of each condition that it sends to another process.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            tuner.search()
    except grpc.RpcError as error:
        raise UserError(
            f"the chief at {_address()} cannot be reached. Start it again with --resume, then this "
            "worker, with the KERASTUNER_TUNER_ID that it had."
        ) from error
    except RuntimeError as error:
        if role != "chief":
            raise
        raise UserError(
            f"the chief cannot listen on {_address()}: {error}. Give another KERASTUNER_ORACLE_IP "
            "or KERASTUNER_ORACLE_PORT."
        ) from error


def _say_whether_chief_answers() -> None:
    with grpc.insecure_channel(_address()) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            print(f"waiting for the chief at {_address()}", file=sys.stderr, flush=True)
