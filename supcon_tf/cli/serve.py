"""Serves an exported model over HTTP (with a page at /) and gRPC, until SIGTERM or Ctrl-C.

supcon-tf serve --model_dir=saved_models/digits
"""

import os
import signal
import sys

from supcon_tf.cli import flags
from supcon_tf.config import ServeConfig


def main(config):
    """Serves; the exit status is 0 after SIGTERM, which ends it as it should."""
    from supcon_tf.serving import serve

    number = serve(config)
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter would wait for threads, such as that of a version that is being loaded.
    os._exit(130 if number == signal.SIGINT else 0)


def program():
    """Runs the command."""
    flags.run(main, ServeConfig, __doc__)
