"""The code of docs/guides/python.md, run as it is but for the number of epochs."""

import re

import keras
import numpy as np
import pytest
from conftest import ROOT, write_images

import supcon_tf

_PAGE = ROOT / "docs/guides/python.md"


@pytest.mark.slow
def test_the_guide_leads_from_a_folder_to_a_loaded_model(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", ["cat", "dog"], 40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(supcon_tf.AUGMENTATIONS, "mild", None)  # It is gone afterwards.
    blocks = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    code = re.sub(r"epochs=\d+", "epochs=2", "\n".join(blocks))
    names = {}
    exec(compile(code, str(_PAGE), "exec"), names)
    assert names["views"].shape == (32, 2, 32, 32, 3)
    assert names["found"]["class_name"][0] in ("cat", "dog")
    assert (names["bundle"].name, names["bundle"].version) == ("photos_python", 1)
    assert (tmp_path / "my_encoder.keras").is_file()


def test_one_output_of_the_kept_classifier_is_a_model_that_trains(finished_run, digits):
    classifier = keras.saving.load_model(finished_run / "classifier.keras")
    plain = keras.Model(classifier.input, classifier.output["logits"])
    images, labels = next(iter(digits.train.images(8, batch_size=64)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for trained in (False, True):  # The encoder is frozen as it is kept.
        kernel = plain.get_layer("logits").get_weights()[0]
        first = plain.layers[1].get_weights()[0]
        for layer in plain.layers if trained else ():
            layer.trainable = True
        plain.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
        plain.fit(images, labels, batch_size=64, verbose=0)
        assert np.any(plain.get_layer("logits").get_weights()[0] != kernel)
        assert np.any(plain.layers[1].get_weights()[0] != first) == trained
