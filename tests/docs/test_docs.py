"""README and docs: commands, links and Python names in them exist."""

import ast
import dataclasses
import re
import shlex

import pytest
from conftest import ROOT

import supcon_tf
from supcon_tf import AUGMENTATIONS, UserError, config
from supcon_tf.cli import main
from supcon_tf.cli.recipes import names
from supcon_tf.config.comparison import DECIDED
from supcon_tf.config.flag_files import parse_arguments
from supcon_tf.config.search import PLACEMENT, TuneConfig
from supcon_tf.config.settings import checked, default_of
from supcon_tf.methods import METHODS

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "saved_models/README.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
COMMANDS = {
    "pretrain": config.PretrainConfig,
    "classify": config.ClassifierConfig,
    "evaluate": config.EvaluateConfig,
    "export": config.ExportConfig,
    "add-class": config.AddClassConfig,
    "predict": config.PredictConfig,
    "serve": config.ServeConfig,
    "tune": TuneConfig,
    "compare": config.CompareConfig,
    "demo": config.DemoConfig,
    "write-digits": config.WriteDigitsConfig,
    "show-views": config.ShowViewsConfig,
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def fields(command):
    """The settings of a command by name."""
    found = {field.name: field for field in dataclasses.fields(COMMANDS[command])}
    decided = {"tune": PLACEMENT, "show-views": PLACEMENT, "compare": DECIDED}
    if command in decided:
        base = dataclasses.fields(config.PretrainConfig)
        found |= {f.name: f for f in base if f.name not in {*decided[command], *found}}
    return found


def kinds(command):
    """The flags of a command: from name to the type of the value."""
    found = {name: field.metadata["kind"] for name, field in fields(command).items()}
    has_recipes = command in ("pretrain", "tune", "compare", "show-views")
    recipes = {"recipe": str} if has_recipes else {}
    return {**found, **recipes, "flagfile": str, "help": bool}


def check_value(field, text):
    """Raises an error unless the setting takes the value; of a method its arguments are known."""
    kind = field.metadata["kind"]
    if text == "none" and default_of(field) is None:
        return
    if kind is dict:
        parse_arguments(text)
    elif kind is not bool:
        checked(field, kind(text))
    known = {"method": METHODS, "augmentation": AUGMENTATIONS}.get(field.name)
    assert known is None or text in known or text.endswith(".keras"), (
        f"there is no {field.name} {text}"
    )


def invocations(text):
    """Every `supcon-tf COMMAND ...` of a page as (command, arguments), in blocks and in lines."""
    text = re.sub(r"\\\n\s*", " ", text)  # A backslash continues the line.
    for found in re.finditer(r"supcon-tf ([^\n`&;|]*)", text):
        rest = found[1].split("  #")[0]
        words = shlex.split(rest.replace("'", ""), comments=True)
        if words and words[0] != "--version":  # The one flag without a command.
            yield words[0].rstrip(".,:)"), words[1:]


def check_flag(command, argument):
    name, equals, value = argument.removeprefix("--").partition("=")
    name = name.rstrip(".,:)")
    flags = kinds(command)
    if name not in flags and name.startswith("no"):
        name = name.removeprefix("no")
        assert flags.get(name) is bool, f"supcon-tf {command} has no flag {argument}"
    assert name in flags, f"supcon-tf {command} has no flag {argument}"
    assert equals or flags[name] is bool, f"{argument} of supcon-tf {command} needs a value"
    if equals and name in fields(command):
        check_value(fields(command)[name], value)


@each_page
def test_commands_have_the_flags_that_pages_give_them(page):
    for command, arguments in invocations(page.read_text()):
        assert command in COMMANDS, f"there is no supcon-tf {command}"
        for argument in arguments:
            if argument.startswith("-"):
                check_flag(command, argument)


def test_flags_in_the_text_are_flags_of_a_program():
    programs = [*(ROOT / "scripts").rglob("*.py"), ROOT / "Makefile"]
    sources = "\n".join(path.read_text() for path in programs)
    known = {name for command in COMMANDS for name in kinds(command)}
    for page in PAGES:
        for name in re.findall(r"`--([a-z]\w*)", page.read_text()):
            declared = re.search(rf"^    {name}: ", sources, re.MULTILINE)
            assert {name, name.removeprefix("no")} & known or declared, f"{page}: --{name}"


def test_a_wrong_command_or_flag_is_found():
    text = "x `supcon-tf export --run_dir=a` y\n    supcon-tf pretrain \\\n  --epoch=3 # --nope\n"
    assert list(invocations(text)) == [
        ("export", ["--run_dir=a"]),
        ("pretrain", ["--epoch=3"]),
    ]
    for command, wrong in (
        ("pretrain", "--epoch=3"),
        ("tune", "--run_dir=x"),
        ("demo", "--noseed"),
    ):
        with pytest.raises(AssertionError, match="has no flag"):
            check_flag(command, wrong)
    with pytest.raises(AssertionError, match="needs a value"):
        check_flag("pretrain", "--epochs")
    with pytest.raises(AssertionError, match="there is no method supcon"):
        check_flag("pretrain", "--method=supcon")
    with pytest.raises(UserError, match="format must be one of"):
        check_flag("predict", "--format=xml")


def test_recipes_and_programs_that_pages_name_exist():
    recipes = {*names(), "NAME"}
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"--recipe=(\w+)", text):
            assert name in recipes, f"{page}: --recipe={name}"
        for path in re.findall(r"\b(?:scripts|supcon_tf|tests)/[\w/]+(?:\.\w+)+", text):
            assert (ROOT / path).is_file(), f"{page}: {path}"


def test_the_commands_are_those_of_the_program():
    assert {*COMMANDS} == {*main.COMMANDS}


def anchors(path):
    """The addresses of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_relative_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.is_file(), f"{target} leads nowhere"
        assert place.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(place), f"{target}: there is no such heading"


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def check_code(source):
    """Compiles it, and checks its names and arguments of supcon_tf."""
    tree = ast.parse(source)
    compile(tree, "<page>", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "supcon_tf":
            assert {alias.name for alias in node.names} <= set(supcon_tf.__all__)
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        if node.value.id == "supcon_tf":
            assert node.attr in supcon_tf.__all__, f"supcon_tf has no {node.attr}"
    for node in ast.walk(tree):
        name = node.func.attr if _is_ours(node) else ""
        if name.endswith("Config"):
            given = {word.arg for word in node.keywords}
            known = {field.name for field in dataclasses.fields(getattr(supcon_tf, name))}
            assert given <= known, f"{name} has no {given - known}"


def _is_ours(node):
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "supcon_tf"
    )


@each_page
def test_python_blocks_compile_and_use_public_names(page):
    for source in python_blocks(page):
        check_code(source)


def test_wrong_python_is_found():
    with pytest.raises(AssertionError, match="supcon_tf has no pretrian"):
        check_code("import supcon_tf\nsupcon_tf.pretrian(None)")
    with pytest.raises(AssertionError, match="ExportConfig has no"):
        check_code("import supcon_tf\nsupcon_tf.ExportConfig(epochs=3)")
    with pytest.raises(AssertionError):
        check_code("from supcon_tf import no_such_name")
    with pytest.raises(SyntaxError):
        check_code("supcon_tf.pretrain(")


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert python_blocks(ROOT / "README.md")


def test_every_public_name_and_setting_has_its_place_in_the_reference():
    reference = ROOT / "docs/reference"
    python = (reference / "python.md").read_text()
    for name in supcon_tf.__all__:
        assert re.search(rf"\b{name}\b", python), f"python.md leaves out {name}"
    settings = (reference / "settings.md").read_text()
    tables = re.findall(r"^```\{settings\} supcon_tf\.config\.(?:search\.)?(\w+)$", settings, re.M)
    assert tables == [class_.__name__ for class_ in COMMANDS.values()]


def test_every_result_is_in_the_table_of_results():
    table = (ROOT / "docs/results/index.md").read_text()
    for page in (ROOT / "docs/results").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in table, page.name
