"""Search for settings on Keras Tuner, and the study of how much they matter."""
