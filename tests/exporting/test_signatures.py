"""Signatures of an exported model: what they give a stranger, and the pixels that they see."""

import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images
from PIL import Image

import supcon_tf
from supcon_tf import load_bundle

OUTPUTS = {
    "class_id": ("int32", (5,)),
    "class_name": ("|S1", (5,)),
    "probabilities": ("float32", (5, 10)),
    "embeddings": ("float32", (5, 32)),
}
NEIGHBORS = {
    "neighbor_ids": ("int32", (5, 10)),
    "neighbor_labels": ("int32", (5, 10)),
    "neighbor_class_names": ("|S1", (5, 10)),
    "similarities": ("float32", (5, 10)),
    "out_of_distribution": ("float32", (5,)),
}
IMAGES, EMBEDDINGS = {"images": ("float32", (5, 8, 8, 3))}, {"embeddings": ("float32", (5, 32))}

# Input and outputs of each signature; an input is the name of an array of the fixture below.
SIGNATURES = {
    "serving_default": ("images", "floats", OUTPUTS),
    "serving_uint8": ("images", "pixels", OUTPUTS),
    "serving_bytes": ("encoded", "encoded", OUTPUTS),
    "embed": ("encoded", "encoded", EMBEDDINGS),
    "neighbors": ("encoded", "encoded", NEIGHBORS),
    "preprocess": ("encoded", "encoded", IMAGES),
    "scale": ("images", "floats", IMAGES),
    "classify": (
        "images",
        "ready",
        {key: OUTPUTS[key] for key in ("probabilities", "embeddings")},
    ),
    "nearest": ("embeddings", "unit", NEIGHBORS),
}
STRANGER = """
import json, sys
sys.modules["supcon_tf"] = None  # Importing it now fails.
import numpy as np, tensorflow as tf
bundle, calls, arrays, found = sys.argv[1:]
signatures, arrays = tf.saved_model.load(bundle).signatures, np.load(arrays)
outputs = {}
for label, signature, name, array in json.loads(calls):
    results = signatures[signature](**{name: tf.constant(arrays[array])})
    for key, value in results.items():
        value = value.numpy()
        value = value.astype(np.bytes_) if value.dtype == object else value
        outputs[f"{label}/{key}"] = value
np.savez(found, signatures=sorted(signatures), **outputs)
"""


@pytest.fixture(scope="module")
def served(exported, digits, tmp_path_factory):
    """Every signature's outputs in a process that cannot import this package."""
    encoded = [encoded.numpy() for encoded, _ in digits.test.records().take(5)]
    pixels = np.stack([tf.io.decode_image(one, channels=3) for one in encoded])
    noise = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    arrays = {
        "encoded": encoded,
        "pixels": pixels,
        "floats": pixels.astype(np.float32),
        "ready": np.random.default_rng(1).random((5, 8, 8, 3), np.float32),
        "unit": np.eye(5, 32, dtype=np.float32),
        "noise": [tf.io.encode_png(image).numpy() for image in noise],
        "training": [one.numpy() for one, _ in digits.train.records().skip(300).take(5)],
    }
    calls = [(name, name, *call[:2]) for name, call in SIGNATURES.items()]
    calls += [(name, "neighbors", "encoded", name) for name in ("noise", "training")]
    folder = tmp_path_factory.mktemp("stranger")
    np.savez(folder / "arrays.npz", **arrays)
    command = [sys.executable, "-I", "-c", STRANGER, str(exported[1] / "1"), json.dumps(calls)]
    command += [str(folder / "arrays.npz"), str(folder / "found.npz")]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = dict(np.load(folder / "found.npz"))
    assert set(found.pop("signatures")) == set(SIGNATURES)
    by_label = {label: {} for label, *_ in calls}
    for key, value in found.items():
        label, name = key.split("/")
        by_label[label][name] = value
    return by_label


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_signature_in_a_fresh_process(served, name):
    expected = SIGNATURES[name][2]
    found = {key: (value.dtype, value.shape) for key, value in served[name].items()}
    assert found == expected


def test_signatures_agree_with_each_other_and_with_keras(served, exported, finished_run):
    by_bytes = served["serving_bytes"]
    names = [name.decode() for name in by_bytes["class_name"]]
    assert names == [str(index) for index in by_bytes["class_id"]]
    np.testing.assert_allclose(by_bytes["probabilities"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(by_bytes["embeddings"], axis=1), 1, rtol=1e-5)
    for name in ("serving_default", "serving_uint8"):
        for key in ("probabilities", "embeddings"):
            np.testing.assert_allclose(served[name][key], by_bytes[key], atol=1e-6)
    embedded = served["embed"]["embeddings"]
    np.testing.assert_allclose(embedded, by_bytes["embeddings"], atol=1e-6)
    np.testing.assert_array_equal(served["scale"]["images"], served["preprocess"]["images"])
    model = keras.saving.load_model(finished_run / "classifier.keras", compile=False)
    images = np.random.default_rng(1).random((5, 8, 8, 3), np.float32)
    expected = tf.nn.softmax(model(images)["logits"])
    np.testing.assert_allclose(served["classify"]["probabilities"], expected, atol=1e-5)
    nearest = load_bundle(exported[1] / "1").nearest(embedded)
    np.testing.assert_array_equal(served["neighbors"]["neighbor_ids"], nearest["neighbor_ids"])


def test_training_images_are_their_own_neighbours(served, digits):
    found = served["training"]
    np.testing.assert_array_equal(found["neighbor_ids"][:, 0], range(300, 305))
    np.testing.assert_allclose(found["similarities"][:, 0], 1, atol=1e-5)
    labels = digits.train.labels()[found["neighbor_ids"]]
    np.testing.assert_array_equal(found["neighbor_labels"], labels)
    names = np.array(digits.class_names, "S")[labels]
    np.testing.assert_array_equal(found["neighbor_class_names"], names)


def test_noise_is_more_out_of_distribution_than_digits(served):
    digits, noise = (served[name]["out_of_distribution"] for name in ("neighbors", "noise"))
    assert digits.mean() < 0.9 < noise.min()


def odd_images(height=37, width=50):
    """Encoded images of every kind that preprocessing might treat differently."""
    rng = np.random.default_rng(0)

    def saved(pixels, kind="PNG", mode=None, **options):
        buffer = io.BytesIO()
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(buffer, kind, **options)
        return buffer.getvalue()

    colour = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "colour": saved(colour),
        "grey": saved(colour[..., 0]),
        "RGBA": saved(np.dstack([colour, colour[..., :1]])),
        "palette": saved(colour, mode="P"),
        "16-bit": saved(rng.integers(0, 2**16, (height, width), dtype=np.uint16)),
        "JPEG": saved(colour, "JPEG"),
        "progressive": saved(colour, "JPEG", progressive=True),
        "rotated": saved(colour, "JPEG", exif=exif),
        "GIF": saved(colour, "GIF"),
        "BMP": saved(colour, "BMP"),
        "WebP": saved(colour, "WEBP"),
        "WebP with alpha": saved(np.dstack([colour, colour[..., :1]]), "WEBP", lossless=True),
    }


def test_preprocessing_is_the_same_in_training_evaluation_and_serving(exported, tmp_path):
    sizes = {"odd": (37, 50), "pixel": (1, 1), "tall": (37, 2), "exact": (8, 8)}
    images = {
        f"{size}_{name}": content
        for size, shape in sizes.items()
        for name, content in odd_images(*shape).items()
    }
    photos = write_images(tmp_path / "photos", ["a", "b"], 4)
    for name, content in images.items():
        (photos / "a" / f"{name}.png").write_bytes(content)
    dataset = supcon_tf.open_dataset(f"folder:{photos}", image_size_px=8, holdout_fraction=0.3)
    bundle = load_bundle(exported[1] / "1")
    compared = 0
    for split in (dataset.train, dataset.test):
        records = list(split.records().as_numpy_iterator())
        (evaluated,) = (batch.numpy() for batch, _ in split.images(8, 100))
        served = bundle.model.signatures["preprocess"](
            encoded=tf.constant([encoded for encoded, _ in records])
        )["images"].numpy()
        assert served.tobytes() == evaluated.tobytes()
        for (encoded, _), image in zip(records, evaluated, strict=True):
            assert bundle.decode(encoded).tobytes() == image.tobytes()
            compared += encoded in images.values()
    assert compared == len(images) == 48


def test_training_sees_the_pixels_that_are_served(exported, tmp_path):
    """Without augmentation, on images of every kind of the training size: nothing is resampled."""
    photos = tmp_path / "photos"
    for name, content in odd_images(8, 8).items():
        (photos / name).mkdir(parents=True)
        for copy in range(4):
            (photos / name / f"{copy}.png").write_bytes(content)
    dataset = supcon_tf.open_dataset(
        f"folder:{photos}", image_size_px=8, holdout_fraction=0.5, copies=[]
    )
    stream = supcon_tf.training_views(
        dataset,
        augmentation=supcon_tf.Augmentation(aspect=1.0),
        num_views=1,
        batch_size=dataset.train.num_examples,
        epochs=1,
        seed=0,
    )
    (views,) = (views.numpy()[:, 0] for views, _ in stream)
    signatures = load_bundle(exported[1] / "1").model.signatures
    records = tf.constant([encoded for encoded, _ in dataset.train.records().as_numpy_iterator()])
    served = signatures["preprocess"](encoded=records)["images"].numpy()
    assert len(served) == 24
    assert sorted(view.tobytes() for view in views) == sorted(one.tobytes() for one in served)
