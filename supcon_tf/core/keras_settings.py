"""The settings of Keras that this package needs, whatever keras.json or the environment says."""

import keras

from supcon_tf.core.errors import UserError

FLOATX, DATA_FORMAT, EPSILON = "float32", "channels_last", 1e-7


def set_keras() -> None:
    """Sets Keras as this package needs it, for this process."""
    keras.config.set_floatx(FLOATX)
    keras.config.set_image_data_format(DATA_FORMAT)
    keras.config.set_dtype_policy(FLOATX)
    keras.config.set_epsilon(EPSILON)


def check_keras() -> None:
    """Raises `UserError` if Keras is set otherwise, as by a program with settings of its own."""
    for name, wanted, found in (
        ("floatx", FLOATX, keras.config.floatx()),
        ("image_data_format", DATA_FORMAT, keras.config.image_data_format()),
        ("dtype_policy", FLOATX, keras.config.dtype_policy().name),
        ("epsilon", EPSILON, keras.config.epsilon()),
    ):
        if found != wanted:
            raise UserError(
                f"Keras must be set to {name} {wanted}. Received: {found!r}, from keras.json or "
                f"this program. Call keras.config.set_{name}({wanted!r}) first."
            )
