"""Shows the formulas of docstrings, which are indented blocks, as they are written."""

import re

_SECTION = re.compile(r"[A-Z][A-Za-z ]*:\s*$")  # Args:, Returns: and so on.


def _indent(line):
    return len(line) - len(line.lstrip())


def mark_formulas(app, what, name, obj, options, lines):
    """Puts `::` before each indented block that follows a paragraph, outside of sections."""
    marked, section = [], False
    for number, line in enumerate(lines):
        if line.strip() and not _indent(line):
            section = bool(_SECTION.match(line))
        begins = number and not lines[number - 1].strip() and _indent(line) and line.strip()
        earlier = next((one for one in reversed(marked) if one.strip()), "")
        if begins and not section and not _indent(earlier):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def setup(app):
    """Registers the extension, before napoleon turns sections into fields."""
    app.connect("autodoc-process-docstring", mark_formulas, priority=100)
    return {"parallel_read_safe": True}
