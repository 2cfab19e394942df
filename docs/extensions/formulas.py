"""Shows the formulas and tables of docstrings as they are written."""

import re

_SECTION = re.compile(r"[A-Z][A-Za-z ]*:\s*$")  # Args:, Returns: and so on.
_RETURNS = ("Returns:", "Yields:")


def _indent(line):
    return len(line) - len(line.lstrip())


def _is_shown(line):
    """Whether a line outside of sections belongs to a formula or a table."""
    return bool(line.strip()) and (_indent(line) > 0 or line.startswith("|"))


def _escape(line):
    """Keeps the bars of |w| from naming a substitution; those in backticks need no escape."""
    parts = line.split("`")
    return "`".join(p if n % 2 else p.replace("|", r"\|") for n, p in enumerate(parts))


def mark_formulas(app, what, name, obj, options, lines):
    """Makes literal blocks of formulas and tables, and says that no type precedes a result."""
    marked, section, shown = [], "", False
    for line in lines:
        previous, blank = marked[-1] if marked else "", not line.strip()
        if not blank and not _indent(line):
            section = line.strip() if _SECTION.match(line) else ""
        starts = not section and _is_shown(line) and not previous.strip()
        shown = (starts or shown) and (blank or _is_shown(line)) and not section
        if starts and not _in_block(marked):
            marked += ["::", ""]
        if shown and not blank:
            marked.append(f"    {line}")
        elif section in _RETURNS and previous.strip() in _RETURNS and not blank:
            marked.append(f"{' ' * _indent(line)}: {_escape(line.lstrip())}")
        else:
            marked.append(_escape(line))
    lines[:] = marked


def _in_block(marked):
    """Whether the last line that is not blank belongs to a block already."""
    last = next((one for one in reversed(marked) if one.strip()), "")
    return _indent(last) > 0


def setup(app):
    """Registers the extension, before napoleon turns sections into fields."""
    app.connect("autodoc-process-docstring", mark_formulas, priority=100)
    return {"parallel_read_safe": True}
