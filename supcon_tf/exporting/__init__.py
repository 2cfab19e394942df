"""Bundles: export, comparison, index, added classes, prediction."""
