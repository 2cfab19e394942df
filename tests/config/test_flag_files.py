"""Flag files: what is written is read again."""

import pytest

from supcon_tf import PretrainConfig, UserError
from supcon_tf.cli.flags import read_recipe
from supcon_tf.config.flag_files import flags_of, parse_arguments, read_flag_file, write_flag_file


def test_a_recipe_is_what_differs_from_the_defaults():
    config = PretrainConfig(
        nesterov=True, learning_rate=0.123457, method_args={"a": 0.5, "b": True}, run_dir="x"
    )
    assert flags_of(config) == [
        "--method_args=a=0.5,b=True",
        "--learning_rate=0.123457",
        "--nesterov=True",
    ]


def test_a_recipe_that_is_written_is_read_again(tmp_path):
    config = PretrainConfig(
        nesterov=True, momentum=0.8, method="triplet", method_args={"mining": "hard", "margin": 0.2}
    )
    write_flag_file(tmp_path / "mine.flags", config, ["Mine", "  python ..."])
    text = (tmp_path / "mine.flags").read_text()
    assert text.startswith("# Mine\n#   python ...\n--method=triplet\n")
    assert read_recipe(tmp_path / "mine.flags") == config


def test_comments_and_empty_lines_are_no_flags(tmp_path):
    (tmp_path / "mine.flags").write_text("# mine\n\n  --epochs=7\n// again\n--nesterov\n")
    assert read_flag_file(tmp_path / "mine.flags") == ["--epochs=7", "--nesterov"]


def test_arguments_keep_their_types():
    found = parse_arguments("a=1,b=1.0,c=True,d=None,e=hard")
    assert str(found) == "{'a': 1, 'b': 1.0, 'c': True, 'd': None, 'e': 'hard'}"
    assert parse_arguments("a=true,b=false,c=none") == {"a": True, "b": False, "c": None}
    with pytest.raises(UserError, match="must be name=value"):
        parse_arguments("a")


@pytest.mark.parametrize("text", ["{[]:1}", "-" * 100_000 + "1", "[" * 1000, "9" * 10_000])
def test_what_is_no_number_is_text(text):
    assert parse_arguments(f"a={text}") == {"a": text}


@pytest.mark.parametrize("content", [b"--epochs=7\n\xff\xfe", None])
def test_a_file_that_is_no_text_is_named(tmp_path, content):
    file = tmp_path / "mine.flags"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file}: (it is not a text file|Is a directory)"):
        read_flag_file(file)
