"""Command-line flags from the configuration dataclasses, and one way for every script to end.

Exit status: 0 when done, 2 for a wrong flag, setting, file or folder (one line says which), 3 when
done except for the files that were named, 130 after Ctrl-C and 143 after SIGTERM, 1 for anything
unforeseen (with a traceback).
"""

import contextlib
import dataclasses
import gc
import os
import re
import shlex
import signal
import sys

from absl import app, flags, logging

from supcon_tf.cli.help import help_text, print_and_exit
from supcon_tf.cli.known import check_names, names_of
from supcon_tf.cli.noise import without_remarks
from supcon_tf.cli.paths import check_images, check_paths
from supcon_tf.cli.recipes import with_files
from supcon_tf.cli.resuming import as_begun
from supcon_tf.config import PretrainConfig, RunConfig
from supcon_tf.config.flag_files import parse_arguments, read_flag_file
from supcon_tf.config.settings import default_of
from supcon_tf.core.errors import UserError
from supcon_tf.core.interrupts import noting_interrupts

INCOMPLETE = 3  # The exit status of a command that is done except for some of its files.
_DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    dict: flags.DEFINE_string,
}


class _OrNone(flags.ArgumentParser):
    """Parses the word none as None, and anything else with another parser."""

    def __init__(self, parser):
        self.parser = parser

    def parse(self, argument):
        is_none = isinstance(argument, str) and argument.lower() == "none"
        return None if is_none else self.parser.parse(argument)

    def flag_type(self):
        return self.parser.flag_type()


def _define(config_class, without=(), known=flags.FLAGS):
    for field in dataclasses.fields(config_class):
        if field.name in without:
            continue
        default, kind = default_of(field), field.metadata["kind"]
        shown = None if kind is dict else default
        _DEFINE[kind](field.name, shown, field.metadata["help"], flag_values=known)
        if default is None and "none" not in names_of(field.name):
            known[field.name].parser = _OrNone(known[field.name].parser)


def _config(config_class, without=(), known=flags.FLAGS):
    values = {}
    for field in dataclasses.fields(config_class):
        if field.name in without:
            continue
        value = getattr(known, field.name)
        if field.metadata["kind"] is dict:
            value = parse_arguments(value or "", field.name)
        values[field.name] = value
    return config_class(**values)


def read_recipe(path):
    """The settings of a recipe, as `supcon-tf pretrain --flagfile` reads it.

    Raises:
        UserError: if it cannot be read, or a setting is unknown or wrong.
    """
    known = flags.FlagValues()
    _define(PretrainConfig, known=known)
    try:
        known(["", *read_flag_file(path)])
        return _config(PretrainConfig, known=known)
    except (flags.Error, ValueError) as error:
        raise UserError(f"recipe {path}: {error}") from error


def _fail(message):
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


def _parser(config_class, usage, takes_recipe):
    def parse(argv):
        if {"--help", "-help", "-h"} & set(argv):
            print_and_exit(help_text(config_class, usage, takes_recipe))
        try:
            return flags.FLAGS([argv[0], *with_files(argv[1:])])
        except (flags.Error, UserError) as error:
            _fail(error)
        except UnicodeDecodeError:
            files = re.findall("^-?-flagfile[=\n](.*)$", "\n".join(argv), re.MULTILINE)
            _fail(f"flagfile must be a text file. Received: {', '.join(files)}.")

    return parse


def _wants_remarks():
    return os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3"


def _import_tensorflow():
    """Imports TensorFlow without its messages about the machine, unless the user asked for them.

    Some of them are printed by its C++ before it reads any log level.
    """
    # Imports and graphs make millions of objects that stay; looking through them after every 700
    # takes an eighth of the time to the first training step.
    gc.set_threshold(100_000)
    if _wants_remarks():
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


@contextlib.contextmanager
def _tensorflow_errors():
    """Turns TensorFlow's own errors into one line: a full disk, too little memory, bad data."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        message = str(error.message).strip().splitlines()[0]
        raise UserError(
            f"out of memory or disk space: {message} Lower --batch_size or --image_size_px, or "
            "free disk space."
        ) from error
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise UserError(
            "another worker is gone or out of reach. Start all of them again, with --resume."
        ) from error
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        message = str(error.message).strip().splitlines()[0]
        raise UserError(
            f"data on disk is damaged or gone: {message.rstrip('.')}. Restore it, then run this "
            "again."
        ) from error


def _continuing():
    """How to continue: a run by its name alone, a search with the same flags."""
    if "resume" not in flags.FLAGS:
        return ""
    if "run_dir" not in flags.FLAGS:
        return "; the same flags and --resume continue it"
    return f". Continue: {sys.argv[0]} --run_dir={shlex.quote(flags.FLAGS.run_dir)} --resume"


def _terminate(signum, frame):
    raise SystemExit(128 + signum)


def _check(configs):
    """Refuses what can be known to be wrong before TensorFlow is loaded."""
    for config in configs:
        check_names(config)
        check_paths(config)
    first, *base = configs
    if hasattr(first, "check_base"):
        first.check_base(*base)


def run(main, config_class, usage, positional=False, base=None, base_without=()):
    """Runs a script.

    Args:
        main: called with the configuration and, with `base`, the base's; with `positional`, then
            with the other arguments.
        config_class: its fields become the flags.
        usage: what `--help` prints above the flags.
        positional: whether there are arguments that are not flags: images.
        base: a second configuration whose fields are flags too, which `--help` does not list; the
            first one's `check_base`, if it has one, is called with it.
        base_without: the base's fields that keep their defaults and are not flags.
    """
    _define(config_class)
    if base is not None:
        _define(base, base_without)

    def guarded(argv):
        signal.signal(signal.SIGTERM, _terminate)
        sys.stdout.reconfigure(errors="backslashreplace")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.ERROR)  # The libraries' remarks on what they read.
        try:
            if argv[1:] and not positional:
                raise UserError(f"unexpected argument. Received: {argv[1]!r}. See --help.")
            given = [_config(config_class)]
            if isinstance(given[0], RunConfig) and given[0].resume:
                given = [as_begun(given[0], flags.FLAGS)]
            given += [] if base is None else [_config(base, base_without)]
            if positional:
                check_images(argv[1:])
            _check(given)
            given += [argv[1:]] if positional else []
            _import_tensorflow()
            from supcon_tf.core.keras_settings import set_keras

            set_keras()
            quiet = contextlib.nullcontext() if _wants_remarks() else without_remarks()
            with quiet, _tensorflow_errors(), noting_interrupts():
                main(*given)
        except UserError as error:
            _fail(error)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The reader is gone; the exit flushes.
            sys.exit(0)
        except OSError as error:
            _fail(f"{error.filename or 'output'}: {error.strerror or error}")
        except MemoryError:
            _fail("out of memory. Lower --batch_size or --image_size_px.")
        except KeyboardInterrupt:
            print(f"\ninterrupted; what is finished is kept{_continuing()}", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parser(config_class, usage, base is not None))
