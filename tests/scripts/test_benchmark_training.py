"""The training benchmark on a tiny network: what it writes, and what it refuses."""

import json
import re

import pytest
import tensorflow as tf

from supcon_tf.core.errors import UserError

TINY = {
    "dataset": "digits",
    "encoder": "resnet8",
    "augmentation": "symbols",
    "batch_size": 8,
    "variants": "",
    "memory": "",
    "repeats": 2,
    "rounds": 1,
    "round_seconds": 0.1,
}

BAD = {
    "variant": ({"variants": "xla,fast"}, "Received: 'fast'"),
    "joined variants": ({"variants": "xla+fast"}, "Received: 'xla+fast'"),
    "memory": ({"memory": "64:8:2"}, "Received: '64:8:2'"),
    "micro-batch": ({"memory": "64:7"}, "whole micro-batches. Received: '64:7'"),
    "peer": ({"peer": "pml"}, "Received: 'pml'"),
    "peer's folder": ({"peer": "supcontrast:nowhere"}, "Received: 'supcontrast:nowhere'"),
    "encoder": ({"encoder": "resnet9"}, "Received: 'resnet9'"),
    "batch": ({"batch_size": 2000}, "at most 1347"),
}


@pytest.fixture(scope="module")
def benchmark(import_script):
    """The script as a module."""
    return import_script("benchmarks/training")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_results_of_a_tiny_step(benchmark, data_dir, digits, tmp_path, capsys):
    on_cpu = not tf.config.list_physical_devices("GPU")  # Elsewhere there is no profile.
    settings = {**TINY, "data_dir": data_dir, "output_dir": str(tmp_path), "profile": on_cpu}
    benchmark.main(benchmark.BenchmarkConfig(**settings))
    results = json.loads((tmp_path / "results.json").read_text())
    # Convolutions of 8x8, 4x4 and 2x2 positions, shortcuts, and the head's two dense layers.
    products = 64 * 9 * 16 * (3 + 16 + 16)
    products += 16 * 32 * (9 * 16 + 9 * 32 + 16)
    products += 4 * 64 * (9 * 32 + 9 * 64 + 32)
    products += 64 * 512 + 512 * 128
    default = results["contestants"]["default"]
    assert default["forward_flops"] == 2 * products
    assert len(default["seconds"]) == 2
    assert 0 < default["loss"] < 10
    assert default["extra_bytes"] > 0
    assert all(results["speed"][part][0] > 0 for part in ("alone", "pipeline", "whole"))
    assert results["arithmetic"]["share"] > 0
    assert results["hardware"]["cores"] >= 1
    if on_cpu:
        # Nine convolutions, and a gradient of each kernel.
        calls = {kind: round(number) for kind, number, _ in results["profile"]["kinds"]}
        assert calls["Conv2DBackpropFilter"] == 9
        assert "Conv2DBackpropFilter" in (tmp_path / "profile.txt").read_text()
    printed = capsys.readouterr().out
    assert "both together / slower of the two" in printed
    assert "step / matrix product" in printed


@pytest.mark.parametrize("case", BAD)
def test_wrong_values_are_refused_before_any_work(case, benchmark, data_dir, digits, tmp_path):
    changes, message = BAD[case]
    settings = {**TINY, "data_dir": data_dir, "output_dir": str(tmp_path / "out"), **changes}
    with pytest.raises(UserError, match=re.escape(message)):
        benchmark.main(benchmark.BenchmarkConfig(**settings))
    assert not (tmp_path / "out").exists()
