"""The serving benchmark on a small model: what it measures and tells, and what it refuses."""

import json
import re
import sys
from types import SimpleNamespace

import pytest

from supcon_tf.core.errors import UserError

MIB = 2**20
TINY = {
    "concurrency": "2",
    "seconds": 0.5,
    "warm_up_seconds": 0.1,
    "images": 3,
    "batch_sizes": "1,2",
    "repeats": 1,
}
BAD = {
    "no clients": ({"concurrency": ""}, "concurrency must be whole numbers"),
    "clients": ({"concurrency": "1,x"}, "Received: '1,x'"),
    "batch": ({"batch_sizes": "0"}, "batch_sizes must be whole numbers"),
    "peer": ({"peer_python": "nowhere/python"}, "peer_python must be a program"),
    "model": ({"model_dir": "nowhere"}, "not found. Received: 'nowhere'"),
}


@pytest.fixture(scope="module")
def benchmark(import_script):
    """The script as a module."""
    return import_script("benchmarks/serving")


def load_row(server="SavedModel", before=800, after=810, **changes):
    found = {"server": server, "clients": 2, "per_second": 9.0, "answers": 9, "errors": {}}
    found |= {"p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0}
    return {**found, "memory_before": before * MIB, "memory_after": after * MIB, **changes}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_results_of_a_tiny_load(benchmark, exported, monkeypatch, tmp_path, capsys):
    servers = {"SavedModel": [], "TFLite int8": ["--runtime=int8"], "none": ["--runtime=float16"]}
    monkeypatch.setattr(benchmark, "_SERVERS", servers)
    monkeypatch.setattr(benchmark, "runtimes", lambda bundle: ["saved_model", "int8"])
    config = benchmark.BenchmarkConfig(model_dir=str(exported[1]), output_dir=str(tmp_path), **TINY)
    benchmark.main(config)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["server"] for row in results["loads"]] == ["SavedModel", "TFLite int8"]
    for row in results["loads"]:
        assert row["errors"] == {}
        assert row["answers"] > 3
        assert row["per_second"] == pytest.approx(row["answers"] / row["seconds"])
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["memory_after"] > 100 * MIB
    assert set(results["memory"]) == {"SavedModel", "TFLite int8"}
    assert set(results["runtimes"]) == {"saved_model", "int8"}
    for by_size in results["runtimes"].values():
        assert set(by_size) == {"1", "2"}
        assert by_size["1"]["milliseconds"] > 0
        assert 0.3 < by_size["2"]["cores"] <= results["hardware"]["cores"] + 0.5
    printed = capsys.readouterr().out
    assert "cores busy" in printed
    assert "memory of TFLite int8: " in printed


def test_requests_that_fail_are_shown_and_end_with_status_1(
    benchmark, exported, monkeypatch, tmp_path, capsys
):
    nothing = {f"p{percentile}_ms": None for percentile in (50, 90, 99)}
    failed = load_row(answers=0, per_second=0.0, errors={"503": 4, "400": 3}, **nothing)
    times = {"saved_model": {"1": {"milliseconds": 1.5, "cores": 1.9}}}
    monkeypatch.setattr(benchmark, "load_servers", lambda *_: [failed, load_row("TFLite")])
    monkeypatch.setattr(benchmark, "time_runtimes", lambda *_: times)
    config = benchmark.BenchmarkConfig(model_dir=str(exported[1]), output_dir=str(tmp_path), **TINY)
    with pytest.raises(SystemExit) as raised:
        benchmark.main(config)
    assert raised.value.code == 1
    printed = capsys.readouterr()
    assert re.search(r"\| SavedModel +\|\s+2 \|\s+0 \|\s+- \|\s+- \|\s+- \|\s+7 \|", printed.out)
    assert re.search(r"\| saved_model +\|\s+1.500 ms \|\s+1.9 \|", printed.out)
    assert "some requests failed" in printed.err
    assert json.loads((tmp_path / "results.json").read_text())["loads"][0]["answers"] == 0


def test_memory_that_grows_is_told(benchmark):
    flat = [load_row(before=800, after=850), load_row(before=850, after=929)]
    grown = [load_row("TFLite", before=800, after=850), load_row("TFLite", before=850, after=931)]
    found = benchmark.memory_growth([*flat, *grown])
    assert found["SavedModel"] == {"before": 800 * MIB, "after": 929 * MIB, "flat": True}
    assert not found["TFLite"]["flat"]
    runtimes = {"saved_model": {"1": {"milliseconds": 1.0, "cores": 1.0}}}
    told = benchmark.tables({"loads": grown, "memory": found, "runtimes": runtimes})
    assert "memory of TFLite: 800 MiB, in the end 931 MiB; IT GREW" in told
    assert "929 MiB; flat" in told


@pytest.mark.parametrize(
    ("errors", "told"), [("", "ended with 1, saying nothing"), ("a\nb: c\n", "run: b: c")]
)
def test_a_load_that_cannot_be_run_is_told(benchmark, errors, told, monkeypatch):
    helper = sys.modules["_serving_server"]
    finished = SimpleNamespace(returncode=1, stderr=errors)
    monkeypatch.setattr(helper.subprocess, "run", lambda *_, **__: finished)
    server = SimpleNamespace(url="http://127.0.0.1:1", memory=lambda: 1)
    config = benchmark.BenchmarkConfig(**TINY)
    with pytest.raises(UserError, match=told):
        benchmark.run_load(server, "digits", "requests", 1, config)


@pytest.mark.parametrize("case", BAD)
def test_wrong_values_are_refused_before_any_work(case, benchmark, tmp_path):
    changes, message = BAD[case]
    settings = {**TINY, "output_dir": str(tmp_path / "out"), **changes}
    with pytest.raises(UserError, match=re.escape(message)):
        benchmark.main(benchmark.BenchmarkConfig(**settings))
    assert not (tmp_path / "out").exists()
