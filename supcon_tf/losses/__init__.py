"""Losses as pure functions and as Keras losses; metrics of embeddings."""
