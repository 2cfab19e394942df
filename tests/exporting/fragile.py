"""A bundle whose model gives NaN for some images, as one that overflows does."""

import shutil

import tensorflow as tf

from supcon_tf import load_bundle
from supcon_tf.exporting import tflite
from supcon_tf.exporting.layout import write_sums
from supcon_tf.exporting.servable import Index, Servable, read_head


def write_fragile(source, target, fails_above=0.999):
    """Copies a bundle with a SavedModel and a float32 model that fail on bright images.

    Args:
        source: a version directory.
        target: the new one.
        fails_above: the brightness, from 0 to 1, from which on features are NaN.
    """
    bundle = load_bundle(source)
    model, size = bundle.model, bundle.image_size_px

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)])
    def encode(images):
        light = tf.reduce_mean(images, axis=[1, 2, 3])[:, None]
        return model.encode(images) + 0 * tf.math.log(fails_above - light)

    index = Index(*(getattr(model, f"index_{part}").numpy() for part in _INDEX), 10)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("saved_model.pb", "tflite"))
    shutil.rmtree(target / "variables")
    servable = Servable(
        encode, model.encoder_variables, read_head(model), index, bundle.class_names, size
    )
    servable.save(target)
    tflite.write_all(target, bundle.metadata, ["tflite_float32"], select_ops=False)
    write_sums(target)
    return target


_INDEX = ("embeddings", "labels", "distances")
