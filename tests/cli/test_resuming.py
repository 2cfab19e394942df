"""`--resume` alone continues with the settings of the run."""

import json

import pytest
from absl import flags

from supcon_tf import ClassifierConfig, PretrainConfig, UserError
from supcon_tf.cli.flags import _config, _define
from supcon_tf.cli.resuming import as_begun


@pytest.fixture
def run_dir(tmp_path):
    settings = {
        "pretrain": PretrainConfig(method="triplet", method_args={"margin": 0.3}, seed=5),
        "classifier": ClassifierConfig(fine_tune="all", batch_size=32),
    }
    kept = {stage: config.to_dict() for stage, config in settings.items()}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    return tmp_path


def resumed(config_class, *arguments):
    known = flags.FlagValues()
    _define(config_class, known=known)
    known(["", "--resume", *arguments])
    return as_begun(_config(config_class, known=known), known)


def test_settings_that_no_flag_gives_are_the_runs(run_dir):
    place = f"--run_dir={run_dir}"
    found = resumed(PretrainConfig, place, "--verbose")
    assert (found.method, found.method_args, found.seed) == ("triplet", {"margin": 0.3}, 5)
    assert (found.run_dir, found.resume, found.verbose) == (str(run_dir), True, True)
    assert resumed(ClassifierConfig, place).batch_size == 32
    # What a flag gives is compared with the run afterwards.
    other = resumed(ClassifierConfig, place, "--fine_tune=none")
    assert (other.fine_tune, other.batch_size) == ("none", 32)


def test_a_run_that_does_not_exist_yet_has_none(tmp_path):
    assert (
        resumed(PretrainConfig, f"--run_dir={tmp_path / 'new'}").method == PretrainConfig().method
    )


@pytest.mark.parametrize("content", ["[]", '{"pretrain": 5}', '{"pretrain": {"run_dir": "other"}}'])
def test_what_is_no_setting_is_passed_over(run_dir, content):
    (run_dir / "config.json").write_text(content)
    assert resumed(PretrainConfig, f"--run_dir={run_dir}").run_dir == str(run_dir)


def test_damaged_settings_are_named(run_dir):
    (run_dir / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot read .*config.json"):
        resumed(PretrainConfig, f"--run_dir={run_dir}")
