"""Pretraining, the classifier, evaluation, the plan and the run directory."""
