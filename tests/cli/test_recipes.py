"""Recipes under another method, and the word none in flags."""

import pytest
from absl import flags

from supcon_tf import ClassifierConfig, PretrainConfig, UserError
from supcon_tf.cli import recipes
from supcon_tf.cli.flags import _config, _define
from supcon_tf.config.search import TuneConfig
from supcon_tf.config.settings import default_of
from supcon_tf.stages.checks import settings_checks


def parse(*arguments, config_class=PretrainConfig):
    """The configuration that a command makes of its arguments."""
    known = flags.FlagValues()
    _define(config_class, known=known)
    known(["", *recipes.with_files(arguments)])
    return _config(config_class, known=known)


@pytest.mark.parametrize("method", ["cross_entropy", "simclr", "triplet"])
@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_holds_together_under_another_method(recipe, method):
    config = parse(f"--recipe={recipe}", f"--method={method}")
    assert config.method == method
    for check in settings_checks(config):
        check()


def test_what_belongs_to_the_recipes_method_is_left_out_and_named(capsys):
    config = parse("--recipe=digits", "--method=simclr", "--projection_hidden_dim=64")
    assert (config.temperature, config.projection_hidden_dim) == (None, 64)
    assert config.learning_rate == parse("--recipe=digits").learning_rate
    assert capsys.readouterr().err == (
        "--method=simclr replaces supcon_out, whose own settings are left out: temperature=0.1, "
        "projection_hidden_dim=128\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recipe=digits"],
        ["--recipe=digits", "--method=supcon_out"],
        ["--method=simclr", "--recipe=digits"],  # The recipe comes later and wins.
        ["--recipe", "digits", "--method", "supcon_out"],
    ],
)
def test_the_recipes_own_method_keeps_its_settings(arguments, capsys):
    config = parse(*arguments)
    assert (config.method, config.temperature) == ("supcon_out", 0.1)
    assert capsys.readouterr().err == ""


def test_a_flag_file_of_ones_own_is_read_in_the_same_way(tmp_path):
    (tmp_path / "mine.flags").write_text("--method=triplet\n--method_args=margin=0.5\n--epochs=7\n")
    config = parse(f"--flagfile={tmp_path / 'mine.flags'}", "--method", "cross_entropy")
    assert (config.method, config.method_args, config.epochs) == ("cross_entropy", {}, 7)
    with pytest.raises(UserError, match="Unable to open .*none.flags"):
        parse(f"--flagfile={tmp_path / 'none.flags'}", "--method=simclr")


@pytest.mark.parametrize("config_class", [PretrainConfig, ClassifierConfig, TuneConfig])
def test_none_is_taken_where_it_is_the_default(config_class):
    known = flags.FlagValues()
    _define(config_class, known=known)
    optional = [name for name in known if known[name].parser.__class__.__name__ == "_OrNone"]
    fields = config_class.__dataclass_fields__
    # An augmentation is called none.
    without_default = {name for name in fields if default_of(fields[name]) is None}
    assert {*optional} == without_default - {"augmentation"}
    known(["", *(f"--{name}=None" for name in optional)])
    assert {getattr(known, name) for name in optional} == {None}


def test_none_takes_back_what_a_recipe_says_and_is_no_number_elsewhere(tmp_path):
    (tmp_path / "a.flags").write_text("--temperature=0.3\n--momentum=none\n")
    config = parse(f"--flagfile={tmp_path / 'a.flags'}", "--temperature=none")
    assert (config.temperature, config.momentum) == (None, None)
    with pytest.raises(flags.IllegalFlagValueError, match="epochs=none"):
        parse("--epochs=none")


def test_the_augmentation_none_is_no_setting_left_out():
    arguments = ["--fine_tune=all", "--augmentation=none"]
    assert parse(*arguments, config_class=ClassifierConfig).augmentation == "none"
    assert parse(arguments[0], config_class=ClassifierConfig).augmentation is None
    assert parse(arguments[1]).augmentation == "none"


def test_a_switch_that_may_be_none_is_still_a_switch():
    settings = ["--space=x"]
    found = [
        parse(*settings, *given, config_class=TuneConfig).prune
        for given in ([], ["--prune"], ["--noprune"], ["--prune=none"])
    ]
    assert found == [None, True, False, None]
