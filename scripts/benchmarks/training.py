"""Times a training step, the input pipeline and both together, along with variants and a peer.

    python scripts/benchmarks/training.py --data_dir=PATH --output_dir=runs/benchmark_training

Every contestant is a process of its own; they take turns step by step. Prints tables of medians
and writes results.json; --profile also writes profile.txt, a breakdown of a step's time. Linux
only (it reads /proc). Nothing else should run meanwhile.

Variants are default, xla, no_xla, no_onednn, keras_batch_norm, float32, mixed_bfloat16 and
mixed_float16; + joins them, as in xla+mixed_bfloat16. --isa=avx2 limits all of them, the peer
included, to the instructions of a CPU without AVX-512.
"""

import dataclasses
import json
import shutil
import statistics
import sys
from pathlib import Path

import _training_tables as tables
from _contestants import ISA, STEP_SETTINGS, Contestant, hardware, open_output

from supcon_tf.cli import flags
from supcon_tf.config import PretrainConfig
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

_WORKER = Path(__file__).with_name("_training_worker.py")
_VARIANTS = {
    "default": {},
    "xla": {"compile": "on"},
    "no_xla": {"compile": "off"},
    "no_onednn": {},
    "keras_batch_norm": {},
    "float32": {"precision": "float32"},
    "mixed_bfloat16": {"precision": "mixed_bfloat16"},
    "mixed_float16": {"precision": "mixed_float16"},
}
_PEER_ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101")
# The peer's head has a hidden layer as wide as the features.
_HEAD_WIDTHS = {"resnet50": 2048, "resnet101": 2048}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Settings of the benchmark."""

    output_dir: str = setting("runs/benchmark_training", "Where the results are written.")
    dataset: str = setting("cifar10", "TensorFlow Datasets name, or folder:PATH.")
    data_dir: str = setting("", "Where TensorFlow Datasets keeps data ('': its own default).")
    encoder: str = setting("resnet18", "Encoder, as for pretraining.")
    image_size_px: int | None = setting(
        None, "Side of the square image (none: the data set's, or 64).", kind=int
    )
    augmentation: str = setting("cifar", "How views are made, as in pretrain.py.")
    batch_size: int = setting(64, "Images per step.")
    num_views: int = setting(2, "Views of each image.")
    precision: str = setting("float32", "Arithmetic of the encoder, as for pretraining.")
    compile: str = setting("auto", "Compile the step with XLA: auto, on or off.")
    variants: str = setting(
        "default,xla,keras_batch_norm,mixed_bfloat16",
        "Variants to time, separated by commas; + joins several.",
    )
    memory: str = setting(
        "64,1024:64", "Steps whose memory is measured, as images or images:micro_batch_size."
    )
    repeats: int = setting(10, "Timed steps of each variant and the peer.", at_least=1)
    rounds: int = setting(5, "Rounds of step, input pipeline and both.", at_least=1)
    round_seconds: float = setting(
        20.0, "Shortest time for each of them in a round, in seconds.", above=0
    )
    peer: str = setting("", "supcontrast:PATH, a checkout, timed beside the variants.")
    peer_python: str = setting("", "Python that can import the peer ('': this one).")
    isa: str = setting("native", "Instructions: what the machine has, or avx2.", choices=tuple(ISA))
    profile: bool = setting(False, "Also trace where the time of a step goes (on a CPU).")


def _settings(config, **changes):
    """The settings of a pretraining run, checked as far as possible without reading the data."""
    from supcon_tf.stages.checks import settings_checks

    names = {field.name for field in dataclasses.fields(PretrainConfig)}
    given = {name: value for name, value in config.to_dict().items() if name in names}
    width = _HEAD_WIDTHS.get(config.encoder, 512)
    settings = {**STEP_SETTINGS, "projection_hidden_dim": width, **given, **changes}
    for check in settings_checks(PretrainConfig(**settings)):
        check()
    return settings


def _variant_tasks(config, side):
    """One task per variant; `default`, which the others are compared with, is the first."""
    tasks = {}
    for name in dict.fromkeys(["default", *filter(None, config.variants.split(","))]):
        parts = name.split("+")
        if not set(parts) <= set(_VARIANTS):
            raise UserError(f"variants must be among {', '.join(_VARIANTS)}. Received: {name!r}.")
        changes = {key: value for part in parts for key, value in _VARIANTS[part].items()}
        settings = _settings(config, image_size_px=side, **changes)
        own = {"keras_batch_norm": "keras_batch_norm" in parts}
        own["environment"] = {"TF_ENABLE_ONEDNN_OPTS": "0"} if "no_onednn" in parts else {}
        tasks[name] = {"kind": "ours", "settings": settings, **own}
    return tasks


def _memory_tasks(config, side):
    """One task for each step whose memory is measured."""
    tasks = {}
    for text in filter(None, config.memory.split(",")):
        sizes = text.split(":")
        if len(sizes) > 2 or not all(size.isdecimal() and int(size) for size in sizes):
            raise UserError(f"memory must be like 64,1024:64. Received: {text!r}.")
        images, micro_batch = int(sizes[0]), int(sizes[-1])
        if images % micro_batch:
            raise UserError(f"memory must have whole micro-batches. Received: {text!r}.")
        changes = {"batch_size": images, "micro_batch_size": micro_batch if sizes[1:] else None}
        settings = _settings(config, image_size_px=side, **changes)
        tasks[text] = {"kind": "ours", "settings": settings, "keras_batch_norm": False}
    return tasks


def _peer_task(config, side):
    """The peer's task, checked as far as possible without starting it."""
    kind, _, path = config.peer.partition(":")
    found = (Path(path) / "networks/resnet_big.py").is_file()
    if kind != "supcontrast" or not found:
        raise UserError(f"peer must be supcontrast:PATH, a checkout. Received: {config.peer!r}.")
    if config.peer_python and not shutil.which(config.peer_python):
        raise UserError(f"peer_python must be a program. Received: {config.peer_python!r}.")
    if config.encoder not in _PEER_ENCODERS:
        known = ", ".join(_PEER_ENCODERS)
        raise UserError(f"encoder must be one of the peer's {known}. Received: {config.encoder!r}.")
    return {"kind": kind, "path": path, "settings": _settings(config, image_size_px=side)}


def _checked_tasks(config):
    """The tasks of the alternation and of the memory table, once everything has been checked."""
    import tensorflow as tf

    from supcon_tf.data.datasets import from_config
    from supcon_tf.stages.checks import data_checks

    dataset = from_config(PretrainConfig(**_settings(config)))
    side = dataset.image_size_px
    tasks, memory = _variant_tasks(config, side), _memory_tasks(config, side)
    for check in data_checks(PretrainConfig(**tasks["default"]["settings"]), dataset, replicas=1):
        check()
    if config.peer:
        tasks[config.peer.partition(":")[0]] = _peer_task(config, side)
    if config.profile and tf.config.list_physical_devices("GPU"):
        raise UserError("profile is for a machine without a GPU. Received: profile=True.")
    return tasks, memory


def _start(name, task, config):
    _say(f"{name} starts")
    python = sys.executable if task["kind"] == "ours" else config.peer_python or sys.executable
    environment = {**ISA[config.isa], **task.get("environment", {})}
    return Contestant(name, [python, str(_WORKER), json.dumps(task)], environment)


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _alternate(running, repeats):
    """Times steps in turn; returns the results of each contestant, by name."""
    for turn in range(repeats):
        for contestant in running:
            contestant.step()
        shown = "  ".join(f"{c.name} {c.seconds[-1]:.3f} s" for c in running)
        _say(f"step {turn + 1}/{repeats}  {shown}")
    return {
        contestant.name: {
            **contestant.ready,
            "extra_bytes": contestant.extra_bytes,
            "median_seconds": statistics.median(contestant.seconds),
            "seconds": contestant.seconds,
        }
        for contestant in running
    }


def _speed(contestant, config):
    """Views per second of the step, the pipeline and both, and the matrix product's rate."""
    views = config.batch_size * config.num_views
    found = {name: [] for name in (*tables.PARTS, "start_seconds", "flops_per_second")}
    for turn in range(config.rounds):
        for part in tables.PARTS:
            answer = contestant.ask(f"{part} {config.round_seconds}")
            found[part].append(views * answer["steps"] / answer["seconds"])
            if part == "pipeline":
                found["start_seconds"].append(answer["start_seconds"])
        product = contestant.ask(f"product {config.round_seconds / 4}")
        found["flops_per_second"].append(product["flops_per_second"])
        shown = "  ".join(f"{part} {found[part][-1]:.1f}" for part in tables.PARTS)
        _say(f"round {turn + 1}/{config.rounds}, views per second  {shown}")
    return found


def _memory(tasks, config):
    """Peak memory of each step, each in a process that has done nothing else."""
    found = {}
    for text, task in tasks.items():
        contestant = _start(f"memory {text}", task, config)
        contestant.close()
        found[text] = contestant.ready
    return found


def main(config):
    """Measures everything, and reports."""
    from supcon_tf.core.files import write_json, writing

    tasks, memory = _checked_tasks(config)
    output, running = open_output(config.output_dir), []
    results = {"hardware": hardware(config.isa), "settings": config.to_dict()}

    def save(**found):
        results.update(found)
        write_json(output / "results.json", results)

    save()
    try:
        for name in reversed(tasks):  # The peer first: it is the likeliest to fail.
            running.insert(0, _start(name, tasks[name], config))
            results["hardware"] |= running[0].ready.pop("versions", {})
        save(contestants=_alternate(running, config.repeats))
        for contestant in running[1:]:
            contestant.close()
        save(speed=_speed(running[0], config))
        save(arithmetic=tables.arithmetic(results))
        if config.profile:
            save(profile=running[0].ask("profile"))
    finally:
        for contestant in running:
            contestant.close()
    save(memory=_memory(memory, config))
    print("\n\n".join(tables.report(results)))
    if config.profile:
        with writing(output / "profile.txt") as temporary:
            temporary.write_text(tables.profile(results["profile"]) + "\n")
        print(f"\n{tables.profile(results['profile'])}")
    print(f"\nresults: {output}/results.json")


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig, __doc__)
