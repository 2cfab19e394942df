"""Encoders, heads, the memory queue, and copies of encoders for training and for keeping."""
