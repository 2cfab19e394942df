"""The benchmark of starts: what is timed, what it writes, and what it refuses."""

import json

import pytest
from PIL import Image

from supcon_tf.core.errors import UserError


@pytest.fixture(scope="module")
def benchmark(import_script):
    """The script as a module."""
    return import_script("benchmarks/start")


def test_the_table_sets_commands_against_the_imports(
    benchmark, exported, tmp_path, monkeypatch, capsys
):
    seconds = {"import tensorflow, keras": iter([2.0, 4.0, 3.0]), "serve": iter([5.5, 4.5, 9.0])}
    starts = {name: lambda own=own: next(own) for name, own in seconds.items()}
    monkeypatch.setattr(benchmark, "_starts", lambda *arguments: starts)
    settings = {"model": str(exported[1]), "output_dir": str(tmp_path / "out"), "repeats": 3}
    benchmark.main(benchmark.BenchmarkConfig(**settings))
    found = json.loads((tmp_path / "out/results.json").read_text())["starts"]
    assert found["serve"] == {"median_seconds": 5.5, "lowest": 4.5, "highest": 9.0}
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "| serve | 5.50 s | 4.50 to 9.00 | +2.50 s |" in rows


@pytest.mark.exhaustive
@pytest.mark.slow
def test_processes_are_timed_to_their_first_deed(benchmark, exported, tmp_path):
    model, image = exported[1], tmp_path / "grey.png"
    Image.new("L", (8, 8), 100).save(image)
    starts = benchmark._starts(model, model / "1", image, tmp_path)
    for name in ("`supcon-tf --help`", "`pretrain --recipe=digits`, first step"):
        assert 0 < starts[name]() < 120
    assert 0 < starts["`serve`, first answer"]() < 120
    assert (tmp_path / "run/config.json").exists()
    assert not (tmp_path / "run/encoder.keras").exists()


def test_a_process_that_fails_is_named(benchmark):
    with pytest.raises(UserError, match="failed: .*model not found"):
        benchmark._ended([*benchmark._COMMAND, "predict", "--model=none", "README.md"])


def test_a_missing_model_is_refused_before_any_work(benchmark, tmp_path):
    config = benchmark.BenchmarkConfig(model="none", output_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match="model not found"):
        benchmark.main(config)
    assert not (tmp_path / "out").exists()
