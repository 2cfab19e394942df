"""Errors, atomic files and the provenance of a run."""
