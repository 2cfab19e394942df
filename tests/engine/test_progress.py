"""Progress shown during training, on a terminal and elsewhere."""

import io

from supcon_tf.engine.progress import Progress


def run(stream):
    progress = Progress("pretrain", epochs=3, steps_per_epoch=2, done=2, stream=stream)
    for epoch in range(2):
        for _ in range(2):
            progress.after_step(lambda: {"loss": 1.5})
        progress.after_epoch({"loss": 1.5, "knn_top1": 0.9 if epoch else None})
        progress.warn("warning: a matter")
    progress.close()
    return stream.getvalue()


def test_a_line_an_epoch_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr("supcon_tf.engine.progress._LEAST_SECONDS", 0.0)
    lines = run(io.StringIO()).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("pretrain epoch 2/3 step 2/2 loss 1.5 (")
    assert lines[1] == "pretrain warning: a matter"
    assert lines[2].startswith("pretrain epoch 3/3 step 2/2 loss 1.5 knn_top1 0.9 (")
    assert lines[2].endswith("(0 s left)")


def test_quick_epochs_are_left_out_but_for_the_last(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("supcon_tf.engine.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress("classifier", epochs=35, steps_per_epoch=1, stream=stream)
    for _ in range(35):
        now[0] += 0.125
        progress.after_step(dict)
        progress.after_epoch({"loss": 1.0})
    shown = [line.split()[2] for line in stream.getvalue().splitlines()]
    assert shown == ["1/35", "9/35", "17/35", "25/35", "33/35", "35/35"]


def test_a_bar_on_a_terminal_and_the_lines_above_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("supcon_tf.engine.progress._LEAST_SECONDS", 0.0)
    written = run(Terminal())
    last = written.split("\r")[-1]
    assert "pretrain: 100%" in last
    assert "6/6" in last
    assert "loss 1.5 knn_top1 0.9" in last
    assert "pretrain epoch 3/3 step 2/2 loss 1.5" in written
    assert "pretrain warning: a matter" in written


def test_lines_hold_what_people_watch_in_100_columns_and_with_verbose_everything():
    values = {"loss": 6.8991, "alignment": 0.13381, "knn_top1": 0.90123, "learning_rate": 0.132}
    shown = []
    for verbose in (False, True):
        stream = io.StringIO()
        options = {"images_per_step": 512, "verbose": verbose}
        progress = Progress("pretrain", 1000, 1, done=998, stream=stream, **options)
        for _ in range(2):
            progress.after_step(dict)
        progress.after_epoch(values)
        shown.append(stream.getvalue().strip())
    assert shown[0].startswith("pretrain epoch 1000/1000 step 1/1 loss 6.899 knn_top1 0.9012 (")
    assert "images/s, 0 s left)" in shown[0]
    assert len(shown[0]) <= 100
    assert "alignment 0.1338 knn_top1 0.9012 learning_rate 0.132" in shown[1]


def test_the_first_step_gives_no_rate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("supcon_tf.engine.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress("pretrain", epochs=3, steps_per_epoch=1, stream=stream, images_per_step=64)
    for _ in range(2):
        now[0] += 32.0
        progress.after_step(dict)
        progress.after_epoch({"loss": 1.0})
    assert stream.getvalue().splitlines() == [
        "pretrain epoch 1/3 step 1/1 loss 1",
        "pretrain epoch 2/3 step 1/1 loss 1 (2 images/s, 32 s left)",
    ]


def test_metrics_are_not_read_before_they_are_shown():
    def values():
        raise AssertionError("read")

    progress = Progress("pretrain", epochs=1, steps_per_epoch=5, stream=io.StringIO())
    for _ in range(5):
        progress.after_step(values)


def test_a_long_epoch_shows_lines_in_between(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("supcon_tf.engine.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress("pretrain", epochs=1, steps_per_epoch=100, stream=stream)
    for _ in range(100):
        now[0] += 1.0
        progress.after_step(lambda: {"loss": 2.0})
    lines = stream.getvalue().splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        f"pretrain epoch 1/1 step {step}/100" for step in (31, 62, 93)
    ]
    assert "(69 s left)" in lines[0]
