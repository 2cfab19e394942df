"""Settings of a comparison, and those of the cells that it makes of a recipe."""

import pytest

from supcon_tf import CompareConfig, PretrainConfig, UserError
from supcon_tf.comparison.arms import arm_config, final_config, shared_recipe
from supcon_tf.config.arms import ARMS
from supcon_tf.methods import METHODS
from supcon_tf.stages.checks import settings_checks

RECIPE = PretrainConfig(
    temperature=0.07,
    projection_hidden_dim=64,
    embedding_dim=32,
    validation_fraction=0.2,
    validation_epochs=5,
    epochs=7,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": "cross_entropy,supcom"}, "'supcom'. Did you mean 'supcon'"),
        ({"arms": "cross_entropy"}, "two or more arms, each once"),
        ({"arms": "cross_entropy,supcon,supcon"}, "two or more arms, each once"),
        ({"arms": "supcon,simclr"}, "reference must be one of the arms.*Pass --reference=supcon"),
        ({"rate_factors": "1,x"}, "numbers above 0, separated by commas. Received: '1,x'"),
        ({"rate_factors": "1,1"}, "different numbers"),
        ({"rate_factors": "0,1"}, "above 0"),
        ({"rate_factors": ""}, "above 0"),
        ({"comparison_dir": ""}, "must name a directory"),
        ({"corruption_images": 9}, "no effect without corruptions. Received: 9"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        CompareConfig(**settings)
    assert "\n" not in str(raised.value)


def test_factors_are_ascending_numbers():
    config = CompareConfig(rate_factors="2, 0.5,1")
    assert config.factors() == (0.5, 1.0, 2.0)
    assert config.is_tuned()
    assert not CompareConfig(rate_factors="1").is_tuned()
    assert CompareConfig(arms=" cross_entropy, supcon,").arm_names() == ("cross_entropy", "supcon")


def test_where_the_comparison_lies_and_its_extent_are_no_part_of_what_it_is():
    extended = CompareConfig(comparison_dir="x", seeds=9, corruptions=True, corruption_images=7)
    assert extended.to_dict() == CompareConfig().to_dict()
    assert CompareConfig(seconds=9).to_dict() != CompareConfig().to_dict()


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_takes_the_recipe_as_far_as_it_is_its_business(name):
    shared = shared_recipe(RECIPE, tuple(ARMS))
    config = final_config(shared, name, seed=3)
    for check in settings_checks(config):
        check()
    assert config.method in METHODS
    assert (config.epochs, config.seed, config.data_seed) == (7, 3, 0)
    assert (config.validation_fraction, config.validation_epochs) == (0.0, 1)
    assert arm_config(shared, name).validation_fraction == 0.2
    tempered = "temperature" in ARMS[name].takes
    assert config.temperature == (0.07 if tempered else None)
    assert config.embedding_dim == (None if name == "cross_entropy" else 32)


def test_supcon_and_its_form_in_differ_in_the_method_alone():
    one, other = (arm_config(RECIPE, name).to_dict() for name in ("supcon", "supcon_in"))
    assert {name for name in one if one[name] != other[name]} == {"method"}


def test_a_queue_that_not_every_arm_can_use_is_refused():
    with pytest.raises(UserError, match="without a memory queue.*Received: queue_size=64"):
        shared_recipe(RECIPE.replace(queue_size=64), ("supcon", "simclr"))


def test_arguments_of_the_method_reach_its_arm():
    recipe = RECIPE.replace(method="joint", method_args={"cross_entropy_weight": 0.1})
    arms = ("cross_entropy", "joint")
    shared = shared_recipe(recipe, arms)
    assert arm_config(shared, "joint").method_args == {"cross_entropy_weight": 0.1}
    assert arm_config(shared, "cross_entropy").method_args == {}
    with pytest.raises(UserError, match="method_args apply to the arm of --method.*'joint'"):
        shared_recipe(recipe, ("cross_entropy", "supcon"))
