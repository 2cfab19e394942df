"""Damaged results of a feature decoupling study."""

import pytest

from supcon_tf import UserError


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"setting": {}}'])
def test_a_damaged_result_is_named(content, import_script, tmp_path, monkeypatch):
    study = import_script("studies/_decoupling_study")
    setting = import_script("studies/_decoupling_model").Setting()
    monkeypatch.setattr(study, "train", lambda *given: pytest.fail("it trains"))
    file = tmp_path / f"results/tiny/{next(iter(study.ARMS))}, seed 0.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=r"seed 0\.json"):
        study.run_study("tiny", setting, 1, tmp_path)
