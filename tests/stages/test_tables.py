"""Markdown tables by hand."""

from supcon_tf.stages.tables import format_table


def test_columns_line_up_and_bars_in_cells_are_escaped():
    expected = ["| a   |   bb |", "|-----|-----:|", "| xxx | 1\\|2 |", "| y   |   10 |"]
    found = format_table(["a", "bb"], [["xxx", "1|2"], ["y", "10"]])
    assert found.splitlines() == expected
