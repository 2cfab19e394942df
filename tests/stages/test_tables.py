"""Markdown tables by hand."""

from supcon_tf.stages.tables import class_table, format_table


def test_columns_line_up_and_bars_in_cells_are_escaped():
    expected = ["| a   |   bb |", "|-----|-----:|", "| xxx | 1\\|2 |", "| y   |   10 |"]
    found = format_table(["a", "bb"], [["xxx", "1|2"], ["y", "10"]])
    assert found.splitlines() == expected


def test_scores_of_many_classes_fit_100_columns_however_long_their_names_are():
    score = {"support": 12_345, "recall": 1.0, "precision": None, "f1": 0.5}
    score |= {"roc_auc": 0.98765, "average_precision": 1.0}
    scores = {f"{number}|{'x' * number}": score for number in range(1, 101)}
    head, rule, *rows = class_table(scores).splitlines()
    assert " ".join(head.split()) == "| class | images | recall | precision | F1 | ROC AUC | AP |"
    assert len(rows) == 100
    assert {len(line) for line in (head, rule, *rows)} == {100}
    first = "| 1\\|x | 12,345 | 100.0 % | - | 50.0 % | 98.8 % | 100.0 % |"
    assert " ".join(rows[0].split()) == first
    assert rows[99].split()[1].endswith("xxx...")
