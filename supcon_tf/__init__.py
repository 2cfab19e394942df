"""Supervised contrastive learning on Keras 3 and TensorFlow: train, evaluate, export, serve.

The public names are imported from their modules on first use, so that a script's `--help` does not
wait for TensorFlow.
"""

import importlib

_PUBLIC = {
    "AUGMENTATIONS": "data.augment",
    "Augmentation": "data.augment",
    "ClassifierConfig": "config",
    "ContrastiveModel": "models.contrastive",
    "CrossEntropyModel": "models.contrastive",
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "MomentumSGD": "optimizers",
    "PairwiseModel": "models.contrastive",
    "PretrainConfig": "config",
    "ProjectionHead": "models.layers",
    "SupConLoss": "methods.supcon",
    "UserError": "errors",
    "build_classifier": "models.classifier",
    "build_encoder": "models.encoders",
    "evaluate": "evaluation",
    "export": "exporting",
    "gather_batch": "distribute",
    "knn_predict": "evaluation",
    "make_strategy": "distribute",
    "open_dataset": "data.datasets",
    "predict": "prediction",
    "pretrain": "pretraining",
    "supcon_loss": "methods.supcon",
    "PositivesPerAnchor": "metrics",
    "AnchorsWithoutPositives": "metrics",
    "positives_per_anchor": "metrics",
    "max_margin_loss": "methods.max_margin",
    "npairs_loss": "methods.npairs",
    "triplet_loss": "methods.triplet",
    "MaxMarginLoss": "methods.max_margin",
    "NPairsLoss": "methods.npairs",
    "TripletLoss": "methods.triplet",
    "SimCLRLoss": "methods.simclr",
    "train_classifier": "classification",
    "training_views": "data.pipeline",
    "warmup_cosine": "optimizers",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'supcon_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"supcon_tf.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
