r"""Writes classes and probabilities of images, from a bundle, one of its files or a server.

supcon-tf predict --model=saved_models/digits image.png more_images/ "photos/**/*.jpg"
supcon-tf predict --model=http://127.0.0.1:8080 --format=csv --output=classes.csv photos/

Images are files, folders (at any depth) and quoted patterns. Those that fail are named on
standard error with the reason, the others are still classified, and the exit status is then 3.
tsv: path, class, probability, class, ... of the top_k. csv: the same under a header. jsonl: image,
classes and probabilities as JSON, one line per image. In tsv a tab, a line end or a backslash
within a cell is written as \t, \n or \\; a byte that is not UTF-8 is always written as \xff.
An image that cannot be classified has no line in tsv and csv, and image and error in jsonl. A model
of several classes per image gives all classes with a probability of 0.5 or more, at least top_k;
in csv these are two cells, with | between the classes and between the probabilities.
"""

import contextlib
import csv
import io
import json
import re
import sys
from pathlib import Path

from supcon_tf.cli import flags
from supcon_tf.config import PredictConfig
from supcon_tf.core.errors import UserError

_CONTROL = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
_SHORT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _code(found):
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # Python's form of a byte that is not UTF-8.
        code -= 0xDC00
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _utf8(text):
    return _NOT_UTF8.sub(_code, text)


def _cells(result, digits):
    pairs = zip(result["classes"], result["probabilities"], strict=True)
    return [result["image"], *(cell for name, p in pairs for cell in (name, f"{p:.{digits}f}"))]


def tsv_line(result):
    """Cells with tabs between, and no other control character."""
    return "\t".join(_utf8(_CONTROL.sub(_code, cell)) for cell in _cells(result, 4))


def _csv_cells(result):
    if not result.get("multi_label"):
        return _cells(result, 6)
    shares = "|".join(f"{share:.6f}" for share in result["probabilities"])
    return [result["image"], "|".join(result["classes"]), shares]


def csv_line(cells):
    """Cells as RFC 4180 wants them, without the line's end."""
    line = io.StringIO()
    csv.writer(line).writerow([_utf8(cell) for cell in cells])
    return line.getvalue().removesuffix("\r\n")


def csv_header(result):
    """The names of the columns."""
    if result.get("multi_label"):  # As many classes as each image has.
        return ["image", "classes", "probabilities"]
    ranks = range(1, len(result["classes"]) + 1)
    return ["image", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))]


def json_line(result):
    """ASCII, so that it is the same in every encoding."""
    found = {"image": _utf8(result["image"])}
    if "error" in result:
        return json.dumps({**found, "error": _utf8(result["error"])})
    names = [_utf8(name) for name in result["classes"]]
    probabilities = [round(share, 6) for share in result["probabilities"]]
    return json.dumps({**found, "classes": names, "probabilities": probabilities})


def lines(results, kind):
    """The lines to write, without their ends.

    Args:
        results: as `supcon_tf.predict` gives them.
        kind: tsv, csv or jsonl.
    """
    has_header = kind != "csv"
    for result in results:
        if kind == "jsonl":
            yield json_line(result)
        if kind == "jsonl" or "error" in result:
            continue
        if not has_header:
            yield csv_line(csv_header(result))
            has_header = True
        yield tsv_line(result) if kind == "tsv" else csv_line(_csv_cells(result))


def reporting(results, failed):
    """Passes results on; names those without a class on standard error, and adds them to `failed`.

    Args:
        results: as `supcon_tf.predict` gives them.
        failed: a list.
    """
    from tqdm import tqdm

    for result in results:
        if "error" in result:
            failed.append(result)
            name = _utf8(_CONTROL.sub(_code, result["image"]))
            tqdm.write(f"{name}: {_utf8(' '.join(result['error'].split()))}", file=sys.stderr)
        yield result


@contextlib.contextmanager
def destination(output):
    """Yields a stream: standard output for '', otherwise a file that appears when all is written.

    Raises:
        UserError: if `output` exists and is not a plain file, or is named like an image.
    """
    from supcon_tf.core.files import writing
    from supcon_tf.data.image_files import EXTENSIONS, HEIC_EXTENSIONS

    if not output:
        yield sys.stdout
        return
    path = Path(output)
    if path.suffix.lower() in EXTENSIONS + HEIC_EXTENSIONS or (
        path.exists() and not path.is_file()
    ):
        raise UserError(
            "output must be a table, neither a folder nor named like an image. Received: "
            f"{output!r}. Pass --output=classes.csv."
        )
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        yield stream


def main(config, images):
    """Predicts, and writes one line per image; exits with status 3 if some have no class."""
    from tqdm import tqdm

    from supcon_tf.exporting.prediction import find_images, predict

    found, failed = find_images(images), []
    with destination(config.output) as stream:
        results = reporting(predict(config, list(found)), failed)
        shown = tqdm(results, total=len(found), unit="image", disable=None)  # On a terminal.
        for line in lines(shown, config.format):
            tqdm.write(line, file=stream)
            stream.flush()
    if failed:
        print(
            f"{len(failed)} of {len(found)} could not be classified; they are named above.",
            file=sys.stderr,
        )
        sys.exit(flags.INCOMPLETE)


def program():
    """Runs the command."""
    flags.run(main, PredictConfig, __doc__, positional=True)
