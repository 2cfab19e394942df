"""The web page, as one document that loads nothing else; its parts are in page/."""

import base64
import functools
import hashlib
from pathlib import Path
from string import Template

_PARTS = Path(__file__).with_name("page")
# Joined into one script: any part may use the names of the others, once the last starts the page.
_SCRIPTS = ("server", "image", "answer", "show", "table", "drawing", "files")


@functools.cache
def page() -> bytes:
    """The page; its policy allows only its own style and script, by their hashes."""
    style = _read("style.css")
    script = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    content = Template(_read("page.html")).substitute(
        style=style, script=script, style_hash=_hash(style), script_hash=_hash(script)
    )
    return content.encode()


def _read(name: str) -> str:
    return (_PARTS / name).read_text("utf-8")


def _hash(part: str) -> str:
    """The SHA-256 of an element's text, which begins on the line after its tag."""
    return base64.b64encode(hashlib.sha256(f"\n{part}".encode()).digest()).decode()
