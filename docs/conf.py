"""Settings of Sphinx, which `make docs` runs."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE / "extensions"), str(_HERE.parent)]

project = "supcon_tf"
html_title = "supcon_tf"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "formulas",
    "settings_tables",
]
exclude_patterns = ["_build"]

html_theme = "furo"
highlight_language = "none"  # An indented block may be a command, a formula or a tree of files.
myst_heading_anchors = 3

smartquotes = False  # An empty value is written as two quotes.
default_role = "code"  # Docstrings have single backticks, as in Markdown.
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # The sections of the docstring say it, with shapes.
napoleon_numpy_docstring = False
napoleon_use_rtype = False
