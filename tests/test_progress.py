"""What is shown while training, on a terminal and elsewhere."""

import io

from supcon_tf.progress import Progress


def run(stream):
    progress = Progress("pretrain", epochs=3, steps_per_epoch=2, done=2, stream=stream)
    for epoch in range(2):
        for _ in range(2):
            progress.after_step(lambda: {"loss": 1.5})
        progress.after_epoch({"loss": 1.5, "knn_top1": 0.9 if epoch else None})
        progress.warn("warning: a matter")
    progress.close()
    return stream.getvalue()


def test_a_line_an_epoch_where_there_is_no_terminal():
    lines = run(io.StringIO()).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("pretrain epoch 2/3 step 2/2 loss 1.5 (")
    assert lines[1] == "pretrain warning: a matter"
    assert lines[2].startswith("pretrain epoch 3/3 step 2/2 loss 1.5 knn_top1 0.9 (")
    assert lines[2].endswith("(0 s left)")


def test_one_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    written = run(Terminal())
    last = written.split("\r")[-1]
    assert "pretrain: 100%" in last
    assert "6/6" in last
    assert "epoch 3/3 loss 1.5" in last
    assert "pretrain warning: a matter" in written


def test_metrics_are_not_read_before_they_are_shown():
    def values():
        raise AssertionError("read")

    progress = Progress("pretrain", epochs=1, steps_per_epoch=5, stream=io.StringIO())
    for _ in range(5):
        progress.after_step(values)


def test_a_long_epoch_shows_lines_in_between(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("supcon_tf.progress.time.monotonic", lambda: now[0])
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
