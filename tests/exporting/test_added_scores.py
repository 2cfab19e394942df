"""Top-1 of added classes, and what is said of it."""

import numpy as np
import pytest

from supcon_tf import UserError
from supcon_tf.exporting.added_scores import check_top1, top1_scores


def one_hot(winners, classes):
    return np.eye(classes, dtype=np.float32)[winners]


def test_top1_is_counted_by_group_and_class():
    """Classes a and b are old; c has four images, d two."""
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 3, 3])
    before = one_hot([0, 1, 0], 2)
    after = one_hot([0, 1, 2, 2, 2, 2, 0, 3, 2], 4)
    assert top1_scores(before, after, labels, ["a", "b", "c", "d"]) == {
        "old_images": 3,
        "new_images": 6,
        "old_top1_before": pytest.approx(2 / 3),
        "old_top1": pytest.approx(2 / 3),
        "new_top1": pytest.approx(4 / 6),
        "per_class": {"c": 0.75, "d": 0.5},
        "held_out": {"c": 4, "d": 2},
    }


@pytest.mark.parametrize(
    ("per_class", "old_top1", "said"),
    [
        ({"c": 0.8, "d": 1.0}, 0.88, []),
        ({"c": 0.79, "d": 1.0}, 0.88, ["poorly: 'c' 79.0 % of 4 held-out images;"]),
        ({"c": 0.5, "d": 0.6}, 0.9, ["'c' 50.0 % of 4 held-out images; 'd' 60.0 % of 2 held-out"]),
        ({"c": 1.0, "d": 1.0}, 0.87, ["old classes falls from 90.0 % to 87.0 % of 30 held-out"]),
    ],
)
def test_poor_scores_are_said(per_class, old_top1, said, capsys):
    scores = {"per_class": per_class, "held_out": {"c": 4, "d": 2}, "new_top1": 0.8}
    scores |= {"old_images": 30, "old_top1_before": 0.9, "old_top1": old_top1}
    check_top1(scores, 0.5)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(said)
    assert all(part in line for part, line in zip(said, printed, strict=True))
    with pytest.raises(UserError, match=r"'c' .*all new classes 80.0 %\), below min_top1=0.9"):
        check_top1({**scores, "per_class": {"c": 0.4, "d": 1.0}}, 0.9)
