"""Functions for the graphs of data sets."""

import tensorflow as tf

# For every function that a data set maps or filters with. TensorFlow would otherwise rewrite
# Python's `if` and `for` in it and in all that it calls, which takes a second or two for a training
# stream and is needed nowhere: what depends on a tensor is written with tf.cond and tf.where.
as_written = tf.autograph.experimental.do_not_convert
