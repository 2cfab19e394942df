"""The directive `settings`: tables of the flags that a configuration dataclass declares."""

import dataclasses
import importlib
import inspect

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from supcon_tf.cli.known import names_of
from supcon_tf.config.settings import default_of

_BOUNDS = {"above": "above", "at_least": "at least", "at_most": "at most", "below": "below"}
_KINDS = {bool: "switch", int: "whole number", float: "number", str: "text", dict: "name=value,..."}


def default_text(field):
    """The default as a person types it."""
    default = default_of(field)
    if default is None:
        return "none"
    if default in ("", {}):
        return "empty"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _number(bound):
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def limits_text(field):
    """The kind of value, and its limits or the values to choose from."""
    choices = field.metadata["choices"] or names_of(field.name)
    if choices:
        return ", ".join(choices)
    limits = field.metadata["bounds"].items()
    bounds = [f"{_BOUNDS[kind]} {_number(bound)}" for kind, bound in limits]
    return ", ".join([_KINDS[field.metadata["kind"]], *bounds])


def _entry(*content):
    return nodes.entry("", nodes.paragraph("", "", *content))


def _row(*entries):
    return nodes.row("", *entries)


def _groups(config_class):
    """Pairs of a title, perhaps empty, and the fields under it, as `--help` groups them."""
    sections, groups = getattr(config_class, "SECTIONS", {}), []
    for field in dataclasses.fields(config_class):
        if not groups or field.name in sections:
            groups.append((sections.get(field.name, ""), []))
        groups[-1][1].append(field)
    return groups


def _table(title, fields):
    rows = [
        _row(
            _entry(nodes.literal("", f"--{field.name}")),
            _entry(nodes.literal("", default_text(field))),
            _entry(nodes.Text(limits_text(field))),
            _entry(nodes.Text(field.metadata["help"])),
        )
        for field in fields
    ]
    titles = ("flag", "default", "value", "meaning")
    head = nodes.thead("", _row(*(_entry(nodes.Text(one)) for one in titles)))
    columns = [nodes.colspec(colwidth=width) for width in (22, 12, 22, 44)]
    group = nodes.tgroup("", *columns, head, nodes.tbody("", *rows), cols=len(columns))
    table = nodes.table("", group)
    if title:
        table.insert(0, nodes.title("", title.capitalize()))
    return table


class SettingsTable(SphinxDirective):
    """One row per field: flag, default, limits, meaning. The argument is the dotted class name."""

    required_arguments = 1

    def run(self):
        """Returns the tables, one per group."""
        module, _, name = self.arguments[0].rpartition(".")
        config_class = getattr(importlib.import_module(module), name)
        self.env.note_dependency(inspect.getfile(config_class))
        return [_table(title, fields) for title, fields in _groups(config_class)]


def setup(app):
    """Registers the directive."""
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True}
