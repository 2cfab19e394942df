"""The convolution of a network's shortcuts, in the form in which it is trained."""

import keras


@keras.saving.register_keras_serializable("supcon_tf")
class SubsampledConv2D(keras.layers.Conv2D):
    """A strided 1x1 convolution: every s-th pixel is taken, then convolved without a stride.

    It computes what Keras's own layer computes. TensorFlow's gradient of a strided 1x1 kernel is
    wrong, by about half and differently each time, when oneDNN uses AVX2 and there are four input
    channels (TensorFlow 2.21); and without a stride it is a matrix product.

    Args:
        **kwargs: as for `keras.layers.Conv2D`, with `kernel_size` 1 and channels-last images.
    """

    def convolution_op(self, inputs, kernel):
        """Images [B, H, W, C] in, [B, ceil(H / stride), ceil(W / stride), filters] out."""
        down, across = self.strides
        return keras.ops.conv(inputs[:, ::down, ::across], kernel, data_format="channels_last")


def is_strided_pointwise(layer: keras.layers.Layer) -> bool:
    """Whether a layer is a convolution of Keras's own that `SubsampledConv2D` can replace."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.kernel_size == (1, 1)
        and layer.strides != (1, 1)
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )
