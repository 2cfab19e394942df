"""The losses benchmark: what it refuses before it measures."""

import pytest

from supcon_tf import UserError


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"sizes": "512,x"}, "sizes must be whole numbers.*Received: '512,x'"),
        ({"sizes": "0"}, "sizes must be whole numbers"),
        ({"losses": "nope"}, "losses must be among supcon_out.*Received: 'nope'"),
        ({"peer": "x"}, "peer must be supcontrast:PATH or pml. Received: 'x'"),
        ({}, "cannot write to output_dir .*Not a directory|File exists"),
    ],
)
def test_what_cannot_run_is_refused_first(import_script, tmp_path, monkeypatch, settings, line):
    benchmark = import_script("benchmarks/losses")
    monkeypatch.setattr(benchmark, "_measure", lambda *given: pytest.fail("it measured"))
    (tmp_path / "file").touch()
    config = benchmark.BenchmarkConfig(output_dir=str(tmp_path / "file"), **settings)
    with pytest.raises(UserError, match=line):
        benchmark.main(config)
