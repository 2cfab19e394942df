"""The text of `--help`."""

from supcon_tf import EvaluateConfig, PretrainConfig, TuneConfig
from supcon_tf.cli.help import help_text


def test_the_flags_of_evaluate_are_in_groups_of_100_columns():
    lines = help_text(EvaluateConfig, "Scores a run.").splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["model:", "images:", "scores:"]
    flags = [line.split()[0].partition("=")[0] for line in lines if line.startswith("  --")]
    assert flags[:4] == ["--flagfile", "--run_dir", "--model", "--output_dir"]
    assert max(map(len, lines)) <= 100


def test_recipes_are_offered_where_they_fit():
    assert "--recipe=NAME" in help_text(PretrainConfig, "Trains.")
    assert "--recipe=NAME" in help_text(TuneConfig, "Searches.", takes_recipe=True)
    assert "--recipe" not in help_text(EvaluateConfig, "Scores.")
