"""Supervised contrastive learning on Keras 3 and TensorFlow: train, evaluate, export, serve.

The public names are imported from their modules on first use, so that a script's `--help` does not
wait for TensorFlow.
"""

import importlib

_PUBLIC = {
    "AddClassConfig": "config",
    "AUGMENTATIONS": "data.augment",
    "Augmentation": "data.augment",
    "Alignment": "metrics",
    "AnchorsWithoutPositives": "metrics",
    "Bundle": "bundles",
    "ClassifierConfig": "config",
    "ContrastiveModel": "models.contrastive",
    "CrossEntropyModel": "models.contrastive",
    "EffectiveRank": "metrics",
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "LAMB": "optimizers",
    "LARS": "optimizers",
    "MaxMarginLoss": "methods.max_margin",
    "MemoryQueue": "models.layers",
    "MomentumSGD": "optimizers",
    "NPairsLoss": "methods.npairs",
    "PairwiseModel": "models.contrastive",
    "PositivesPerAnchor": "metrics",
    "PredictConfig": "config",
    "PretrainConfig": "config",
    "ProjectionHead": "models.layers",
    "ServeConfig": "config",
    "StabilityConfig": "search.config",
    "SimCLRLoss": "methods.simclr",
    "SupConLoss": "methods.supcon",
    "TripletLoss": "methods.triplet",
    "TuneConfig": "search.config",
    "Uniformity": "metrics",
    "UserError": "errors",
    "alignment": "metrics",
    "add_class": "adding",
    "build_classifier": "models.classifier",
    "build_encoder": "models.encoders",
    "build_stages": "models.resnet",
    "evaluate": "evaluation",
    "export": "exporting",
    "gather_batch": "distribute",
    "expected_calibration_error": "calibration",
    "fit_temperature": "calibration",
    "knn_predict": "evaluation",
    "load_bundle": "bundles",
    "make_optimizer": "optimizers",
    "make_schedule": "schedules",
    "make_strategy": "distribute",
    "max_margin_loss": "methods.max_margin",
    "npairs_loss": "methods.npairs",
    "open_dataset": "data.datasets",
    "plan": "planning",
    "portable_copy": "models.copies",
    "positives_per_anchor": "metrics",
    "predict": "prediction",
    "pretrain": "pretraining",
    "stability": "search.stability",
    "supcon_loss": "methods.supcon",
    "train_classifier": "classification",
    "training_copy": "models.copies",
    "training_views": "data.pipeline",
    "triplet_loss": "methods.triplet",
    "tune": "search.tuning",
    "uniformity": "metrics",
    "warmup_cosine": "schedules",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'supcon_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"supcon_tf.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
