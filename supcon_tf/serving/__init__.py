"""Serving of an exported model with KServe, over HTTP and gRPC.

Importing this package imports neither KServe nor TensorFlow; `serve` does.
"""

import gc
import sys
from pathlib import Path

from supcon_tf.config import ServeConfig
from supcon_tf.core.errors import UserError


def _import_kserve() -> None:
    """Imports KServe, which reads the command line of any process that imports it.

    Raises:
        UserError: if it is not installed.
    """
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        import kserve  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs KServe, and {error.name} is not installed. "
            "Run: pip install 'supcon_tf[serve]'."
        ) from error
    finally:
        sys.argv = arguments


def serve(config: ServeConfig) -> int:
    """Serves a model until SIGTERM or SIGINT, then finishes the requests under way.

    A version that is being loaded at that moment, or a batch that outlasts the time to drain,
    continues in its thread, which the interpreter waits for; `supcon-tf serve` does not.

    Args:
        config: settings.

    Returns:
        The number of the signal.

    Raises:
        UserError: if there is no valid model, a port is taken, or KServe is missing.
    """
    _import_kserve()
    from supcon_tf.serving.loading import load_version
    from supcon_tf.serving.server import Server, bind
    from supcon_tf.serving.versions import Versions

    def load(path):
        return load_version(path, config.runtime, config.max_batch_size)

    # A taken port is reported before the model is loaded.
    if config.grpc_port:
        bind(config.host, config.grpc_port, "grpc_port").close()
    with bind(config.host, config.http_port, "http_port") as socket:
        gc.freeze()  # What is imported stays; the collector need not look at it again.
        versions = Versions(Path(config.model_dir), load)
        versions.start()
        return Server(config, versions, socket).run()
