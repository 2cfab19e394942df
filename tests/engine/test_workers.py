"""Several workers are one training: what one refuses, all refuse, in the same words."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT
from run_contents import cluster_of_two

# Every question that workers ask each other; each answers with what it got.
_QUESTIONS = textwrap.dedent(
    """
    import json, os, sys
    from pathlib import Path
    import keras
    from supcon_tf import MomentumSGD, UserError, make_strategy
    from supcon_tf.engine import checkpoints
    from supcon_tf.engine.loop import fit
    from supcon_tf.engine.workers import agreed, check_alike, chief_first, everywhere

    strategy = make_strategy("multi_worker")
    own = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

    def refuse(error, *workers):
        if own in workers:
            raise error
        return own

    def answer(ask):
        try:
            return ask()
        except UserError as error:
            return str(error)

    folder = Path(sys.argv[1], str(own))  # One each, where all should share one.
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(optimizer=MomentumSGD(0.1), loss="mse")
        model.optimizer.build(model.trainable_variables)
        saved = checkpoints.folder_of(folder, "pretrain")
        checkpoints.save(saved, checkpoints.State(1), model, chief=own == 0)

    def resume():
        fit(model, None, epochs=1, steps_per_epoch=1, folder=folder, stage="pretrain")

    class_names = ["a" * 150, "b" * 150]
    print(json.dumps({
        "agreed": agreed(strategy, own + 5),
        "everywhere": everywhere(strategy, lambda: own),
        "chief": chief_first(strategy, lambda: own + 7),
        "chief refuses": answer(
            lambda: chief_first(strategy, lambda: refuse(UserError("ä" * 3000), 0))
        ),
        "second refuses": answer(lambda: everywhere(strategy, lambda: refuse(UserError("no"), 1))),
        "both refuse": answer(
            lambda: everywhere(strategy, lambda: refuse(UserError(f"no {own}"), 0, 1))
        ),
        "cannot read": answer(
            lambda: everywhere(
                strategy, lambda: refuse(PermissionError(13, "Permission denied", "/data"), 1)
            )
        ),
        "alike": answer(lambda: check_alike(strategy, {"seed": 1, "none": None, "bad": []})),
        "differ": answer(lambda: check_alike(strategy, {"seed": 1, "rate": 0.1 * (own + 1)})),
        "one lacks": answer(lambda: check_alike(strategy, {"a": 1} if own else {})),
        "long": answer(lambda: check_alike(strategy, {"names": class_names[: own + 1]})),
        "not shared": answer(resume),
    }))
    """
)
_LONG = repr(["a" * 150, "b" * 150])[:200]


@pytest.mark.slow
def test_two_workers_answer_alike(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _QUESTIONS, str(tmp_path)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in cluster_of_two()
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    answers = [json.loads(output) for output, _ in outputs]
    for index, found in enumerate(answers):
        assert found == {
            "agreed": 5,
            "everywhere": index,
            "chief": None if index else 7,
            "chief refuses": "ä" * 3000,
            "second refuses": "worker 1: no",
            "both refuse": "no 0",
            "cannot read": "worker 1: [Errno 13] Permission denied: '/data'",
            "alike": None,
            "differ": "the workers differ in rate: 0.1 on worker 0, 0.2 on worker 1. Start all of "
            "them with the same settings, data and versions.",
            "one lacks": "the workers differ in a: None on worker 0, 1 on worker 1. Start all of "
            "them with the same settings, data and versions.",
            "long": f"the workers differ in names: {['a' * 150]!r} on worker 0, {_LONG}... on "
            "worker 1. Start all of them with the same settings, data and versions.",
            "not shared": f"worker 1: checkpoint {tmp_path}/1/checkpoints/pretrain/000000001 is "
            "missing or damaged. Several workers must share the run directory; otherwise start "
            "again with --overwrite.",
        }


# As the script, where the second worker finds other images, another version or other weights.
_OTHER_MACHINE = textwrap.dedent(
    """
    import dataclasses, importlib.metadata, json, os, runpy, sys
    import supcon_tf.data.splits as splits

    kind, *sys.argv = sys.argv[1:]
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
        if kind == "data":
            describe = splits.ImageDataset.describe
            splits.ImageDataset.describe = lambda self: describe(self) | {"train": "others"}
        if kind == "weights":  # As where a file of weights is another one.
            import supcon_tf.stages.building as building
            build = building.build_encoder
            def changed(*given):
                encoder = build(*given)
                encoder.set_weights([weight + 1 for weight in encoder.get_weights()])
                return encoder
            building.build_encoder = changed
        if kind == "version":
            importlib.metadata.version = lambda package: "0.1"
    runpy.run_path(sys.argv[0], run_name="__main__")
    """
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "flags", "line"),
    [
        ("settings", ["--method=triplet"], "setting method: 'supcon_out' on worker 0, 'triplet' o"),
        ("settings", ["--keep_checkpoints=3"], "setting keep_checkpoints: 2 on worker 0, 3 on w"),
        ("data", [], "train: {'examples': 1347, 'fingerprint'"),
        ("version", [], "version of keras: '3."),
        ("weights", [], "weights to begin with"),
    ],
    ids=["setting", "saving", "data", "version", "weights"],
)
def test_workers_that_differ_all_end_with_the_same_line(kind, flags, line, data_dir, tmp_path):
    common = ["--width_multiplier=0.5", "--epochs=1", "--strategy=multi_worker"]
    common += [f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}"]
    script = str(ROOT / "scripts/pretrain.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OTHER_MACHINE, kind, script, *common, *(flags * index)],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, environment in enumerate(cluster_of_two())
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    lines = [error.strip().splitlines()[-1] for error in errors]
    assert lines[0] == lines[1]
    assert f"pretrain.py: the workers differ in {line}" in lines[0]
    assert not (tmp_path / "run").exists()
