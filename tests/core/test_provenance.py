"""The machine as provenance records it."""

import pytest

from supcon_tf.core import provenance

_CORE = "processor\t: 0\nmodel name\t: Some CPU: 2 GHz\nflags\t\t: fpu avx2 {} sse\n"


@pytest.mark.parametrize(
    ("core", "expected"),
    [
        (_CORE.format("avx512f"), {"cpu": "Some CPU: 2 GHz", "instructions": "AVX-512, AVX2"}),
        (_CORE.format("avx512"), {"cpu": "Some CPU: 2 GHz", "instructions": "AVX2"}),
        ("CPU architecture: 8\n", {}),
        (None, {}),
    ],
)
def test_model_and_instruction_sets_are_recorded_where_the_system_tells_them(
    core, expected, tmp_path, monkeypatch
):
    file = tmp_path / "cpuinfo"
    if core is not None:
        file.write_text(2 * core)
    monkeypatch.setattr(provenance, "_CPU_INFO", file)
    monkeypatch.setattr(provenance.platform, "processor", lambda: "")
    assert provenance.processor() == expected
    assert provenance.hardware().items() >= expected.items()
