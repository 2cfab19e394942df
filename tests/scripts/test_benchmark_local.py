"""The benchmark of local losses on a tiny network: what it writes, and what it refuses."""

import json
import re

import pytest

from supcon_tf.core.errors import UserError

TINY = {"encoder": "resnet8", "width_multiplier": 0.25, "image_size_px": 8, "batch_size": 4}

BAD = {
    "compile": ({"compile": "off,fast"}, "compile must be off, on or off,on. Received: 'off,fast'"),
    "loss": ({"local_loss": "npairs"}, "one of simclr, supcon. Received: 'npairs'"),
    "encoder": (
        {"encoder": "applications:VGG16", "width_multiplier": 1.0},
        "Received: 'applications:VGG16'",
    ),
}


@pytest.fixture(scope="module")
def benchmark(import_script):
    """The script as a module."""
    return import_script("benchmarks/local")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_results_of_tiny_steps(benchmark, data_dir, tmp_path, capsys):
    settings = {**TINY, "data_dir": data_dir, "output_dir": str(tmp_path), "repeats": 1}
    benchmark.main(benchmark.BenchmarkConfig(**settings, compile="off"))
    arms = json.loads((tmp_path / "results.json").read_text())["arms"]
    assert {name: arm["overlap"] for name, arm in arms.items()} == {
        "end to end": 2,
        "LoCo": 1,
        "Greedy InfoMax": 0,
    }
    for arm in arms.values():
        assert 0 < arm["extra_bytes"] < arm["peak_bytes"]
        assert arm["median_seconds"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == [*arms]


@pytest.mark.parametrize("case", BAD)
def test_wrong_values_are_refused_before_any_work(case, benchmark, tmp_path):
    changes, message = BAD[case]
    settings = {**TINY, "output_dir": str(tmp_path / "out"), **changes}
    with pytest.raises(UserError, match=re.escape(message)):
        benchmark.main(benchmark.BenchmarkConfig(**settings))
    assert not (tmp_path / "out").exists()
