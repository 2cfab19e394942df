"""Accepted search spaces, and the one line that refuses everything else."""

import json

import pytest

from supcon_tf import PretrainConfig, TuneConfig, UserError
from supcon_tf.search.space import configured
from supcon_tf.search.space_file import parse_space, read_space

BASE = PretrainConfig(epochs=20)

# Content of the file, and what the line must say: what is wrong, and the value received.
BAD = {
    "not JSON": ("{,", "is not JSON: .*line 1"),
    "a setting twice": ('{"momentum": {}, "momentum": {}}', "'momentum' occurs twice"),
    "no number": ('{"momentum": {"range": [0.1, NaN]}}', "NaN is not a number"),
    "a list": ("[1]", r"must be an object with at least one setting.*Received: \[1\]"),
    "empty": ("{}", "at least one setting. Received: {}"),
    "a huge number": ({"learning_rate": {"range": [0.1, 10**400]}}, "range of two numbers"),
    "a huge choice": ({"learning_rate": {"choices": [10**400]}}, "finite number"),
    "steps without end": (
        {"learning_rate": {"range": [0.02, 2.0], "step": 1e-320}},
        r"step that fits 1 to 1000 times into its range.*Received: 1e-320",
    ),
    "factors without end": (
        {"weight_decay": {"range": [1e-320, 1.0], "scale": "log", "step": 10}},
        "step that fits 1 to 1000 times into its range.*Received: 10",
    ),
    "steps too fine to tell apart": (
        {"learning_rate": {"range": [1.0, 1.0000005], "step": 1e-7}},
        "six digits",
    ),
    "a range too narrow": (
        {"learning_rate": {"range": [0.12345671, 0.12345672]}},
        "rounded to six digits",
    ),
    "unknown field": (
        {"learning_rat": {"choices": [1.0]}},
        "no setting.*Received: 'learning_rat'. Did you mean 'learning_rate'",
    ),
    "nothing like it": ({"q": {"choices": [1]}}, "Received: 'q'. See supcon-tf pretrain --help"),
    "fixed field": ({"seed": {"choices": [1, 2]}}, "seed cannot be searched: .*'seed'"),
    "where a run lies": ({"run_dir": {"choices": ["a"]}}, "run_dir cannot be searched"),
    "data": ({"dataset": {"choices": ["digits"]}}, "dataset cannot be searched"),
    "validation": (
        {"validation_fraction": {"range": [0.1, 0.2]}},
        "validation_fraction cannot be searched",
    ),
    "devices": ({"strategy": {"choices": ["tpu"]}}, "strategy cannot be searched"),
    "checkpoints": ({"keep_checkpoints": {"choices": [1]}}, "keep_checkpoints cannot be searched"),
    "epochs under hyperband": (
        {"epochs": {"choices": [10, 20]}},
        "epochs cannot be searched: hyperband itself",
    ),
    "all arguments": ({"method_args": {"choices": [{}]}}, "one by one"),
    "argument without name": ({"method_args.": {"choices": [1]}}, "Received: 'method_args"),
    "temperature as argument": (
        {"method_args.temperature": {"choices": [0.1]}},
        "Pass it as --temperature",
    ),
    "no object": ({"momentum": [0.1, 0.9]}, r"momentum must be an object.*\[0.1, 0.9\]"),
    "neither": ({"momentum": {"scale": "log"}}, "either a range .* or choices"),
    "both": ({"momentum": {"range": [0, 0.5], "choices": [0.1]}}, "either a range .* or"),
    "unknown key": (
        {"momentum": {"range": [0, 0.5], "log": 1}},
        "either a range .*Received: .*log",
    ),
    "an end that is no whole number": (
        {"epochs": {"range": [1, 1e30]}},
        r"epochs must be of type int. Received: 1e\+30",
    ),
    "wrong type": ({"epochs": {"choices": [10.5]}}, "epochs must be of type int.*10.5"),
    "text for a number": ({"momentum": {"choices": ["a"]}}, "type float. Received: 'a'"),
    "number for a bool": ({"nesterov": {"choices": [1]}}, "type bool. Received: 1"),
    "null that is not allowed": ({"epochs": {"choices": [None]}}, "int. Received: None"),
    "range of text": (
        {"optimizer": {"range": [1, 2]}},
        "optimizer must be of type str. Received: 1",
    ),
    "range of bools": (
        {"nesterov": {"range": [0, 1]}},
        "nesterov must be of type bool. Received: 0",
    ),
    "one end": ({"momentum": {"range": [0.5]}}, r"two numbers.*Received: \[0.5\]"),
    "ends of text": ({"momentum": {"range": ["a", "b"]}}, 'two numbers.*"a", "b"'),
    "empty range": (
        {"momentum": {"range": [0.5, 0.5]}},
        r"low end below its high end.*\[0.5, 0.5\]",
    ),
    "reversed range": (
        {"momentum": {"range": [0.9, 0.1]}},
        r"low end below its high end.*\[0.9, 0.1\]",
    ),
    "end out of bounds": ({"momentum": {"range": [0.5, 1.0]}}, "below 1. Received: 1.0"),
    "choice out of bounds": ({"batch_size": {"choices": [64, 1]}}, "least 2.*Received: 1"),
    "unknown choice": ({"optimizer": {"choices": ["adam"]}}, "one of sgd.*'adam'"),
    "infinite": ({"learning_rate": {"range": [0.1, 1e999]}}, "is not a number|two numbers"),
    "log from 0": (
        {"weight_decay": {"range": [0.0, 0.1], "scale": "log"}},
        r"above 0 on a log scale.* Received: \[0.0, 0.1\]",
    ),
    "unknown scale": ({"momentum": {"range": [0, 0.5], "scale": "lin"}}, "'lin'"),
    "step above the range": (
        {"batch_size": {"range": [64, 128], "step": 100}},
        r"fits 1 to 1000 times into its range, \[64, 128\]. Received: 100",
    ),
    "step of 0": ({"momentum": {"range": [0, 0.5], "step": 0}}, "above 0. Received: 0"),
    "log step of 1": (
        {"batch_size": {"range": [64, 256], "scale": "log", "step": 1}},
        "a whole number above 1. Received: 1",
    ),
    "broken step": (
        {"batch_size": {"range": [64, 256], "step": 0.5}},
        "a whole number above 0. Received: 0.5",
    ),
    "endless steps": (
        {"momentum": {"range": [0, 0.9], "step": 1e-6}},
        "fits 1 to 1000 times into its range.*Received: 1e-06",
    ),
    "no choice": ({"optimizer": {"choices": []}}, r"one choice or more.*Received: \[\]"),
    "choices as text": ({"optimizer": {"choices": "sgd"}}, 'as a list. Received: "sgd"'),
    "a choice twice": ({"momentum": {"choices": [1e-1, 0.1]}}, "twice. Received: 0.1"),
    "choices on a scale": (
        {"momentum": {"choices": [0.1], "scale": "log"}},
        "either a range .*Received: .*scale",
    ),
    "a list as argument": ({"method_args.a": {"choices": [[1]]}}, r"word. Received: \[1\]"),
    "text with a comma": ({"method_args.a": {"choices": ["b,c"]}}, "word. Received: .b,c"),
    "grid over a range": ({"momentum": {"range": [0, 0.5]}}, "without steps.*a step"),
    "condition of no object": (
        {"nesterov": {"choices": [True], "when": "sgd"}},
        'object of lists.*Received: "sgd"',
    ),
    "condition without values": (
        {"nesterov": {"choices": [True], "when": {"optimizer": []}}},
        "object of lists",
    ),
    "condition on what is not searched": (
        {"nesterov": {"choices": [True], "when": {"optimizer": ["sgd"]}}},
        "nesterov depends on 'optimizer', which is not searched",
    ),
    "condition on a range": (
        {
            "momentum": {"range": [0.1, 0.5]},
            "nesterov": {"choices": [True], "when": {"momentum": [0.2]}},
        },
        "nesterov depends on a value that momentum never takes; it takes a range; give it choices",
    ),
    "condition never met": (
        {
            "optimizer": {"choices": ["sgd", "lars"]},
            "nesterov": {"choices": [True], "when": {"optimizer": ["adamw"]}},
        },
        'optimizer never takes; it takes "sgd", "lars". Received: when optimizer="adamw"',
    ),
    "conditions that contradict": (
        {
            "optimizer": {"choices": ["sgd", "adamw"]},
            "nesterov": {"choices": [False, True], "when": {"optimizer": ["sgd"]}},
            "num_views": {"choices": [2, 3], "when": {"optimizer": ["adamw"], "nesterov": [True]}},
        },
        "num_views depends on values that never occur together",
    ),
    "conditions in a circle": (
        {
            "optimizer": {"choices": ["sgd"], "when": {"nesterov": [True]}},
            "nesterov": {"choices": [True], "when": {"optimizer": ["sgd"]}},
        },
        "in a circle. Received: optimizer, nesterov",
    ),
    "condition on itself": (
        {"nesterov": {"choices": [True], "when": {"nesterov": [True]}}},
        "in a circle. Received: nesterov",
    ),
}
_ALGORITHM = {"epochs under hyperband": "hyperband", "grid over a range": "grid"}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_space_is_refused_in_one_line_that_names_the_file(case, tmp_path):
    content, message = BAD[case]
    file = tmp_path / "space.json"
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text.replace("Infinity", "1e999"))
    with pytest.raises(UserError, match=message) as raised:
        read_space(str(file), _ALGORITHM.get(case, "random"))
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path):
    with pytest.raises(UserError, match="cannot be read: .* Pass a JSON file"):
        read_space(str(tmp_path / name), "random")


def test_values_keep_their_types_on_the_way_through_the_oracle():
    """true, 1, 1.0 and null are different values; Keras Tuner's own choices mix them up."""
    content = {
        "nesterov": {"choices": [False, True]},
        "momentum": {"choices": [None, 0.5]},
        "method_args.block_size": {"choices": [None, 128]},
        "learning_rate": {"range": [0.1, 1], "scale": "log"},
        "batch_size": {"range": [2, 300]},
    }
    space = parse_space(content, "random")
    proposed = {
        "nesterov": "true",
        "momentum": "null",
        "method_args.block_size": "128",
        "learning_rate": 0.123456789,
        "batch_size": 301,
    }
    values = space.decoded(proposed)
    expected = [True, None, 128, 0.123457, 300]
    assert list(values.values()) == expected
    assert list(map(type, values.values())) == list(map(type, expected))
    found = configured(BASE.replace(momentum=0.3), values)
    assert (found.nesterov, found.momentum, found.method_args) == (True, None, {"block_size": 128})


def test_a_step_makes_values_with_both_ends():
    content = {
        "temperature": {"range": [0.1, 0.3], "step": 0.1},
        "batch_size": {"range": [32, 256], "step": 2, "scale": "log"},
        "weight_decay": {"range": [0.001, 0.1], "step": 10, "scale": "log"},
        "num_views": {"range": [2, 5], "step": 2},
    }
    space = parse_space(content, "grid")
    found = [space.shown(name) for name in content]
    assert found == [[0.1, 0.2, 0.3], [32, 64, 128, 256], [0.001, 0.01, 0.1], [2, 4]]


def test_conditions_decide_what_is_set_and_what_is_counted():
    content = {
        "nesterov": {"choices": [False, True], "when": {"optimizer": ["sgd", "lars"]}},
        "momentum": {"choices": [0.8, 0.9], "when": {"nesterov": [True]}},
        "optimizer": {"choices": ["adamw", "sgd", "lars"]},
    }
    space = parse_space(content, "grid")
    assert space.names == ["optimizer", "nesterov", "momentum"]
    stale = {"optimizer": '"adamw"', "nesterov": "true", "momentum": "0.8"}
    assert space.decoded(stale) == {"optimizer": "adamw"}
    assert space.decoded({**stale, "optimizer": '"sgd"'}) == {
        "optimizer": "sgd",
        "nesterov": True,
        "momentum": 0.8,
    }
    assert space.first() == {"optimizer": "adamw"}
    assert space.count() == 1 + 2 * (1 + 2)


def test_arguments_of_the_method_are_added_to_the_recipes():
    base = PretrainConfig(method="triplet", method_args={"mining": "hard", "margin": 0.2})
    space = parse_space({"method_args.margin": {"choices": [0.5, 1]}}, "grid")
    found = configured(base, space.first(), run_dir="elsewhere")
    assert found.method_args == {"mining": "hard", "margin": 0.5}
    assert found.run_dir == "elsewhere"


def test_places_on_the_axes_of_a_picture():
    content = {
        "learning_rate": {"range": [0.01, 1.0], "scale": "log"},
        "momentum": {"range": [0.2, 0.4]},
        "optimizer": {"choices": ["sgd", "lars", "adamw"]},
    }
    space = parse_space(content, "random")
    assert space.place("learning_rate", 0.1) == pytest.approx(0.5)
    assert space.place("momentum", 0.25) == pytest.approx(0.25)
    places = [space.place("optimizer", name) for name in space.shown("optimizer")]
    assert places == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert space.shown("momentum") == [0.2, 0.4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": ""}, "no search space given. Pass --space"),
        ({"search_dir": ""}, "search_dir must name a directory"),
        ({"hyperband_factor": 3}, "is for --algorithm=hyperband. Received: hyperband_factor=3"),
        ({"algorithm": "hyperband", "prune": True}, "hyperband stops trials by itself"),
        ({"prune": False, "grace_epochs": 3}, "Leave one of them out"),
        ({"algorithm": "genetic"}, "one of random, bayesian, hyperband, grid"),
        ({"objective": "top1"}, "one of knn_top1, linear_top1, nll. Received: 'top1'"),
        ({"max_trials": 0}, "max_trials must be at least 1"),
    ],
)
def test_settings_of_a_search_act_or_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TuneConfig(**{"space": "space.json", **changes})
