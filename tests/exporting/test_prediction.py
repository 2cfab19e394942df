"""Prediction from a bundle, a TFLite file and a server: images in, probabilities out, faults."""

import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
from conftest import write_images
from exporting.fragile import write_fragile
from exporting.model_servers import dogs, model_server, results, serving

from supcon_tf import UserError
from supcon_tf.config import PredictConfig
from supcon_tf.exporting import prediction
from supcon_tf.exporting.bundle import load_bundle
from supcon_tf.exporting.layout import write_sums
from supcon_tf.exporting.prediction import predict
from supcon_tf.exporting.tflite import read_metadata


@pytest.fixture(scope="module")
def bundle(exported):
    """A version directory."""
    return exported[1] / "1"


@pytest.fixture(scope="module")
def digit_files(digits, tmp_path_factory):
    """Thirty digits as PNG files."""
    folder = tmp_path_factory.mktemp("digits")
    for number, (encoded, _) in enumerate(digits.test.records().take(30)):
        (folder / f"{number:02d}.png").write_bytes(encoded.numpy())
    return folder


def answers_of(bundle):
    """The V1 protocol over a bundle."""

    def predictions(instances):
        for number, encoded in enumerate(instances):
            try:
                bundle.decode(encoded)
            except UserError:
                return 400, {"error": f"instance {number} is no image."}
        found = bundle.classify(np.stack([bundle.decode(encoded) for encoded in instances]))
        rows = zip(found["class_name"], found["probabilities"].tolist(), strict=True)
        return 200, {"predictions": [{"class_name": n, "probabilities": p} for n, p in rows]}

    return model_server(predictions, class_names=bundle.class_names)


@pytest.fixture
def bad_files(tmp_path):
    """By path of what cannot be classified the reason, as a pattern."""
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    reasons = {"half.png": "not a whole", "notes.txt": "not a whole", "empty.jpg": "not a whole"}
    reasons["none.png"] = "image not found. Check the path."
    return {str(tmp_path / name): reason for name, reason in reasons.items()}


def test_a_bundle_a_tflite_file_and_a_server_agree(bundle, digit_files, digits):
    expected = results(bundle, [digit_files], top_k=3)
    assert [os.path.basename(one["image"]) for one in expected] == sorted(os.listdir(digit_files))
    labels = [str(label.numpy()) for _, label in digits.test.records().take(30)]
    assert np.mean([one["classes"][0] == y for one, y in zip(expected, labels, strict=True)]) > 0.8
    with serving(answers_of(load_bundle(bundle))) as address:
        models = {
            bundle.parent: 1e-6,
            bundle / "tflite/float32.tflite": 1e-4,
            bundle / "tflite/int8.tflite": 0.15,
            address: 1e-6,
            f"{address}/v1/models/digits/": 1e-6,
        }
        for model, tolerance in models.items():
            found = results(model, [digit_files], top_k=3, batch_size=7)
            same = [a["classes"] == b["classes"] for a, b in zip(found, expected, strict=True)]
            assert all(same) or tolerance > 0.1, model
            for one, other in zip(found, expected, strict=True):
                assert one["image"] == other["image"]
                assert one["probabilities"][0] == pytest.approx(
                    other["probabilities"][0], abs=tolerance
                ), model


def test_a_tflite_file_works_away_from_its_bundle_and_a_changed_one_in_it_does_not(
    bundle, digit_files, tmp_path
):
    alone = tmp_path / "alone.tflite"
    content = (bundle / "tflite/float32.tflite").read_bytes()
    alone.write_bytes(content)
    assert results(alone, [digit_files / "00.png"]) == results(
        bundle / "tflite/float32.tflite", [digit_files / "00.png"]
    )
    inside = tmp_path / "1" / "tflite" / "float32.tflite"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(content)
    (tmp_path / "1" / "SHA256SUMS").write_text(f"{'0' * 64}  tflite/float32.tflite\n")
    with pytest.raises(UserError, match="SHA-256 of tflite.float32.tflite does not match"):
        results(inside, [digit_files])


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic", "int8"])
def test_a_damaged_tflite_file_is_refused_before_it_is_run(
    precision, bundle, digit_files, tmp_path
):
    content = (bundle / f"tflite/{precision}.tflite").read_bytes()
    damaged, rng = tmp_path / "damaged.tflite", np.random.default_rng(3)
    model_bytes = content.index(b"PK\x03\x04")
    for at in [*rng.integers(1, model_bytes, 40), model_bytes - 1]:
        changed = content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :]
        for bad in (changed, content[: at + 1], content[at + 1 :], content[:at] + content):
            damaged.write_bytes(bad)
            with pytest.raises(UserError, match="damaged.tflite is damaged"):
                results(damaged, [digit_files / "00.png"])


def test_a_tflite_file_without_its_digest_is_refused_outside_of_its_bundle(
    bundle, digit_files, tmp_path
):
    alone = tmp_path / "alone.tflite"
    content = (bundle / "tflite/float32.tflite").read_bytes()
    metadata = read_metadata(alone, content)
    del metadata["model_sha256"]
    alone.write_bytes(content[: content.index(b"PK\x03\x04")])
    with zipfile.ZipFile(alone, "a") as archive:
        archive.writestr("supcon_tf.json", json.dumps(metadata))
    with pytest.raises(UserError, match="holds no SHA-256 of its model.*export it again"):
        results(alone, [digit_files])
    version = shutil.copytree(bundle, tmp_path / "1")
    shutil.copy(alone, version / "tflite/float32.tflite")
    write_sums(version)
    assert len(results(version / "tflite/float32.tflite", [digit_files])) == 30


@pytest.mark.parametrize(
    "model", [pytest.param("", marks=pytest.mark.slow), "tflite/float32.tflite"]
)
def test_an_image_for_which_the_model_gives_nan_is_named(model, bundle, digit_files, tmp_path):
    fragile = write_fragile(bundle, tmp_path / "1") / model
    write_images(tmp_path, ["white"], 1, level=10_000)
    files = [digit_files / "00.png", tmp_path / "white/000.png"]
    (sound,) = results(fragile, files[:1])
    assert sound["classes"]
    for order in (files, files[::-1]):
        found = {one["image"]: one for one in results(fragile, order)}
        assert list(found) == [str(file) for file in order]
        assert "outputs are not finite" in found[str(files[1])]["error"]
        assert found[str(files[0])]["classes"] == sound["classes"]
        assert found[str(files[0])]["probabilities"] == pytest.approx(sound["probabilities"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.tflite", None, "model not found. Received: '.*none.tflite'"),
        ("other.tflite", b"TFL3", "holds no class names"),
        ("none", None, "model not found"),
    ],
)
def test_a_model_that_is_none_is_named(name, content, message, tmp_path, digit_files):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        predict(PredictConfig(model=str(tmp_path / name)), [str(digit_files)])


def test_an_address_without_its_scheme_is_recognized(digit_files):
    with pytest.raises(UserError, match="For a server give http://127.0.0.1:9"):
        predict(PredictConfig(model="127.0.0.1:9"), [str(digit_files)])


@pytest.mark.parametrize("model", ["", "tflite/float32.tflite"])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_bad_files_are_named_and_the_others_answered(
    model, batch_size, bundle, digit_files, bad_files
):
    good = [str(digit_files / f"{number:02d}.png") for number in range(4)]
    bad = list(bad_files)
    given = [bad[0], good[0], good[1], bad[1], bad[2], good[2], bad[3], good[3]]
    found = results(bundle / model, given, batch_size=batch_size)
    assert [one["image"] for one in found] == given
    sound = results(bundle / model, good)
    for one, other in zip([one for one in found if one["image"] in good], sound, strict=True):
        assert one["classes"] == other["classes"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)
    for one in found:
        if one["image"] in bad:
            assert set(one) == {"image", "error"}
            assert re.search(bad_files[one["image"]], one["error"])


def test_a_server_names_the_same_bad_files(bundle, digit_files, bad_files):
    good = [str(digit_files / f"{number:02d}.png") for number in range(3)]
    given = [*good[:1], *bad_files, *good[1:]]
    with serving(answers_of(load_bundle(bundle))) as address:
        found = results(address, given)
    assert [one["image"] for one in found] == given
    expected = results(bundle, given)
    assert [one.get("classes") for one in found] == [one.get("classes") for one in expected]
    assert "answered 400: the image is no image" in found[1]["error"]


def test_a_batch_is_bounded_in_images_and_in_bytes(images, monkeypatch):
    sizes = []

    def predictions(instances):
        sizes.append(len(instances))
        return dogs(instances)

    with serving(model_server(predictions)) as address:
        results(address, images, batch_size=3)
        monkeypatch.setattr(prediction, "_MAX_BATCH_BYTES", 17)  # Two of them have 14.
        results(address, images, batch_size=3)
        monkeypatch.setattr(prediction, "_MAX_BATCH_BYTES", 3)  # One alone is larger.
        results(address, images)
    assert sizes == [3, 2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_files_are_found_before_the_model_is_loaded_and_read_batch_by_batch(images):
    with pytest.raises(UserError, match="'none.png': image not found"):
        predict(PredictConfig(model="nowhere"), ["none.png"])
    with serving(model_server(dogs)) as address:
        found = predict(PredictConfig(model=address, batch_size=2), images)
        os.remove(images[4])
        assert [one["image"] for one in (next(found), next(found))] == images[:2]
        assert list(found)[-1] == {"image": images[4], "error": "No such file or directory."}


def test_equal_probabilities_keep_the_order_of_the_classes(images):
    def predictions(instances):
        return 200, {"predictions": [{"class_name": "b", "probabilities": [0.1, 0.3, 0.3, 0.3]}]}

    with serving(model_server(predictions, class_names="abcd")) as address:
        (one,) = results(address, images[:1], top_k=9)
    assert one["classes"] == ["b", "c", "d", "a"]


def test_an_image_of_another_size_and_kind_is_prepared_alike(bundle, tmp_path):
    write_images(tmp_path, ["grey"], 1, mode="L", size=(31, 20))
    write_images(tmp_path, ["alpha"], 1, mode="RGBA", size=(13, 40))
    expected = results(bundle, [tmp_path])
    found = results(bundle / "tflite/float32.tflite", [tmp_path])
    for one, other in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
