"""Search for settings, on Keras Tuner."""
