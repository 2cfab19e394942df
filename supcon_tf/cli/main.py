"""The program `supcon-tf`: one command per stage."""

import importlib
import importlib.metadata
import sys

from supcon_tf.cli.help import print_and_exit
from supcon_tf.core.errors import suggestion

COMMANDS = {
    "demo": "the whole workflow on embedded digits: SupCon against cross entropy, then export",
    "show-views": "draws training images and their augmented views into a PNG file",
    "pretrain": "trains an encoder, contrastively or with cross entropy",
    "classify": "trains a classifier for a run: on its frozen encoder, or together with it",
    "evaluate": "scores a run or an exported model on held-out or other labelled images",
    "export": "writes a run's classifier as SavedModel and TFLite, compared with Keras",
    "predict": "classifies images with an exported model or a server",
    "serve": "serves an exported model over HTTP and gRPC, with a page to try it on",
    "add-class": "adds classes to an exported model from a few images each, without training",
    "compare": "compares methods over seeds at an equal budget, each with its own learning rate",
    "tune": "searches for the settings of a recipe that score best on validation images",
    "write-digits": "writes the embedded digits as a folder of PNG files",
}
_WIDTH = 2 + max(map(len, COMMANDS))


def _usage():
    lines = [f"  {name:<{_WIDTH}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "Supervised contrastive learning on Keras and TensorFlow.",
            "",
            "usage: supcon-tf COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "supcon-tf COMMAND --help lists its flags; supcon-tf --version prints the version.",
        ]
    )


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-help", "-h", "help"):
        print_and_exit(_usage())
    elif name == "--version":
        print(f"supcon_tf {importlib.metadata.version('supcon_tf')}")
    elif name in COMMANDS:
        sys.argv = [f"supcon-tf {name}", *sys.argv[2:]]
        importlib.import_module(f"supcon_tf.cli.{name.replace('-', '_')}").program()
    else:
        message = f"the command must be one of {', '.join(COMMANDS)}. Received: {name!r}."
        print(f"supcon-tf: {message}{suggestion(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
