"""Encoders, heads and the models that train them."""
