import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from supcon_tf import UserError, load_bundle
from supcon_tf.data.images import InvalidImage
from supcon_tf.exporting.layout import check_sums, find_versions, newest_bundle, write_sums


@pytest.fixture(scope="module")
def bundle(exported):
    return load_bundle(exported[1] / "1")


@pytest.fixture
def copy(exported, tmp_path):
    """A bundle to damage."""
    return shutil.copytree(exported[1] / "1", tmp_path / "digits" / "1")


@pytest.fixture(scope="module")
def encoded(digits):
    return [encoded.numpy() for encoded, _ in digits.test.records().take(6)]


def test_the_newest_version_is_found(tmp_path):
    for name in ("1", "9", "10", "0", "007", "x", ".writing-1-11"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "12").symlink_to(tmp_path / "1")
    assert find_versions(tmp_path) == [1, 9, 10]
    assert newest_bundle(str(tmp_path)) == tmp_path / "10"
    assert newest_bundle(str(tmp_path / "9")) == tmp_path / "9"
    assert find_versions(tmp_path / "nowhere") == []


def test_a_bundle_is_loaded_by_text_or_path_of_its_folder_or_a_version(copy, tmp_path):
    shutil.copytree(copy, copy.parent / "10")
    for path, version in ((copy.parent, "10"), (copy, "1")):
        for given in (path, str(path)):
            assert load_bundle(given).path.name == version
    for given in (tmp_path / "none", str(tmp_path / "none")):
        with pytest.raises(UserError, match="model not found. Received: '.*none'"):
            load_bundle(given)


def test_a_newest_version_without_its_model_is_refused_rather_than_passed_over(copy):
    shutil.copytree(copy, copy.parent / "2", ignore=shutil.ignore_patterns("saved_model.pb"))
    with pytest.raises(UserError, match="digits/2 lacks saved_model.pb"):
        load_bundle(copy.parent)


def test_composed_steps_equal_the_signatures(bundle, encoded):
    images = np.stack([bundle.decode(one) for one in encoded])
    found = bundle.classify(images)
    served = bundle.model.signatures["serving_bytes"](encoded=tf.constant(encoded))
    np.testing.assert_array_equal(found["class_id"], served["class_id"])
    assert found["class_name"] == [name.decode() for name in served["class_name"].numpy()]
    for name in ("probabilities", "embeddings"):
        np.testing.assert_allclose(found[name], served[name], atol=1e-6)
    near = bundle.nearest(found["embeddings"])
    served = bundle.model.signatures["neighbors"](encoded=tf.constant(encoded))
    np.testing.assert_array_equal(near["neighbor_ids"], served["neighbor_ids"])
    names = [[name.decode() for name in row] for row in served["neighbor_class_names"].numpy()]
    assert near["neighbor_class_names"] == names


def test_pixels_and_files_are_seen_alike(bundle, encoded):
    for one in encoded:
        pixels = tf.io.decode_png(one, channels=3).numpy()
        np.testing.assert_array_equal(bundle.scale(pixels), bundle.decode(one))
        np.testing.assert_array_equal(bundle.scale(pixels.astype(float)), bundle.decode(one))


@pytest.mark.parametrize("runtime", ["float32", "float16", "dynamic", "int8"])
def test_every_runtime_classifies(bundle, exported, encoded, runtime):
    images = np.stack([bundle.decode(one) for one in encoded])
    found = load_bundle(exported[1] / "1", runtime).classify(images)
    expected = bundle.classify(images)
    tolerance = {"float32": 1e-5, "float16": 0.01, "dynamic": 0.1, "int8": 0.1}[runtime]
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=tolerance)
    np.testing.assert_allclose(found["embeddings"], expected["embeddings"], atol=tolerance)
    assert found["probabilities"].dtype == np.float32


def test_thumbnails_and_names_of_the_index(bundle, digits):
    rows = bundle.index_images()
    assert len(rows) == 1347
    labels = digits.train.labels()
    assert [row["class"] for row in rows] == [digits.class_names[label] for label in labels]
    encoded, _ = next(iter(digits.train.records().skip(500)))
    thumbnail = tf.io.decode_jpeg(bundle.thumbnail(500)).numpy().astype(int)
    assert np.abs(thumbnail - tf.io.decode_png(encoded, channels=3).numpy()).mean() < 8
    assert bundle.thumbnail(1347) is None


def test_a_picture_that_is_damaged_after_loading_is_none(exported, tmp_path):
    shutil.copytree(exported[1], tmp_path / "digits")
    bundle = load_bundle(tmp_path / "digits")
    file = bundle.path / "index/thumbnails.zip"
    content = bytearray(file.read_bytes())
    starts = {row: bundle._thumbnails.getinfo(f"{row}.jpg").header_offset for row in (7, 400, 800)}
    content[starts[7]] ^= 255  # Its header.
    content[starts[400] + 60] ^= 255  # Its bytes.
    file.write_bytes(content[: starts[800] + 20])
    for row in starts:
        assert bundle.thumbnail(row) is None
    assert bundle.thumbnail(200) is not None


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\nhalf"])
def test_what_is_no_image_is_refused(bundle, content):
    with pytest.raises(InvalidImage, match="not a whole JPEG, PNG, BMP, GIF or WebP"):
        bundle.decode(content)


@pytest.mark.parametrize(
    ("augmentation", "size", "drawn"),
    [
        ("symbols", 8, True),
        ("strong_symbols", 32, True),
        ("symbols", 64, False),
        ("cifar", 8, False),
    ],
)
def test_models_of_small_symbols_can_be_drawn_for(augmentation, size, drawn, exported):
    bundle = load_bundle(exported[1])
    bundle.image_size_px = size
    bundle.metadata["settings"]["pretrain"]["augmentation"] = augmentation
    assert bundle.of_symbols is drawn


def test_sums_are_those_of_sha256sum(copy):
    listed = (copy / "SHA256SUMS").read_text().splitlines()
    names = {line.split("  ")[1] for line in listed}
    assert {"saved_model.pb", "labels.txt", "tflite/int8.tflite", "index/thumbnails.zip"} <= names
    assert "SHA256SUMS" not in names
    if shutil.which("sha256sum"):
        import subprocess

        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=copy, check=True)


DAMAGE = {
    "changed": (
        lambda b: (b / "labels.txt").write_text("0\n"),
        "the SHA-256 of labels.txt does not match",
    ),
    "missing": (lambda b: (b / "metrics.json").unlink(), "lacks metrics.json"),
    "added": (lambda b: (b / "more.txt").touch(), "holds more.txt, which does not belong to it"),
    "no sums": (lambda b: (b / "SHA256SUMS").unlink(), "no readable SHA256SUMS"),
    "broken sums": (lambda b: (b / "SHA256SUMS").write_text("x\n"), "no readable SHA256SUMS"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_bundle_whose_sums_do_not_match_is_refused(copy, case):
    damage, message = DAMAGE[case]
    check_sums(copy)
    damage(copy)
    with pytest.raises(UserError, match=f"{message}.*Export it again"):
        load_bundle(copy)


def test_every_byte_of_a_bundle_counts(copy):
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for at in {0, len(content) // 2, len(content) - 2}:
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            with pytest.raises(UserError, match=r"SHA-256|SHA256SUMS|lacks|not belong to it"):
                load_bundle(copy)
            path.write_bytes(content)
    load_bundle(copy)


def test_a_model_that_is_loaded_does_not_see_its_file_change(copy):
    bundle, images = load_bundle(copy, "float32"), np.full((1, 8, 8, 3), 0.5, np.float32)
    expected = bundle.classify(images)["probabilities"]
    path = copy / "tflite/float32.tflite"
    with open(path, "r+b") as file:  # In place, as `cp` does.
        file.write(b"\xff" * path.stat().st_size)
    np.testing.assert_array_equal(bundle.classify(images)["probabilities"], expected)


def test_a_link_in_a_bundle_is_refused(copy, tmp_path):
    shutil.move(copy / "labels.txt", tmp_path / "elsewhere.txt")
    (copy / "labels.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(UserError, match="labels.txt"):
        check_sums(copy)


def test_damage_under_new_sums_is_named(copy):
    (copy / "labels.txt").write_text("0\n1\n")
    write_sums(copy)
    with pytest.raises(UserError, match="labels.txt does not match"):
        load_bundle(copy)
    (copy / "metadata.json").write_text("{")
    write_sums(copy)
    with pytest.raises(UserError, match="metadata.json"):
        load_bundle(copy)
    (copy / "saved_model.pb").write_bytes(b"\xff")
    write_sums(copy)
    with pytest.raises(UserError, match="saved_model.pb cannot be read"):
        load_bundle(copy)


def test_a_runtime_that_is_not_there_is_named(copy):
    (copy / "tflite/int8.tflite").unlink()
    write_sums(copy)
    with pytest.raises(UserError, match="no int8 model.*saved_model, dynamic, float16, float32"):
        load_bundle(copy, "int8")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("metadata.json", lambda content: {"name": "digits"}),
        ("metadata.json", lambda content: [content]),
        ("metadata.json", lambda content: {**content, "added": 3}),
        ("metrics.json", lambda content: {**content, "export": 3}),
    ],
)
def test_json_files_without_their_parts_are_refused(copy, file, change):
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(change(content)))
    write_sums(copy)
    with pytest.raises(UserError, match="its JSON files lack parts"):
        load_bundle(copy)
