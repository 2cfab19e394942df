"""A linear classifier on a frozen encoder."""

import keras


def classification_head(num_classes: int) -> keras.layers.Dense:
    """A linear layer from features [B, F] to logits float32 [B, num_classes]."""
    return keras.layers.Dense(num_classes, dtype="float32", name="logits")


def build_classifier(encoder: keras.Model, head: keras.layers.Dense) -> keras.Model:
    """Joins an encoder and a classification head; the encoder is frozen.

    Args:
        encoder: a functional model from images [B, S, S, 3] to features [B, F].
        head: a layer from features [B, F] to logits [B, num_classes].

    Returns:
        A functional model of Keras's own layers from float32 images [B, S, S, 3] in [0, 1] to
        `{"logits": [B, num_classes], "features": [B, F]}`.
    """
    encoder.trainable = False
    images = keras.Input(encoder.input_shape[1:], name="images")
    features = encoder(images, training=False)
    return keras.Model(images, {"logits": head(features), "features": features}, name="classifier")
