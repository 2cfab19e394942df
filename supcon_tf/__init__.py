"""Supervised contrastive learning on Keras 3 and TensorFlow: train, evaluate, export, serve.

The public names are imported from their rooms on first use, so that `--help` does not wait for
TensorFlow.
"""

import importlib
import os
import platform
import sys
from typing import TYPE_CHECKING

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"  # It takes precedence over keras.json.
elif sys.modules["keras"].config.backend() != "tensorflow":
    raise ImportError(
        "supcon_tf needs Keras on TensorFlow. Received: Keras already imported on "
        f"{sys.modules['keras'].config.backend()}. Set KERAS_BACKEND=tensorflow, or import "
        "supcon_tf first."
    )

# Set before TensorFlow is loaded: it leaves oneDNN's kernels off on x86 without AVX-512, where they
# are much faster than its own.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:  # For editors and type checkers.
    from supcon_tf.comparison.comparing import compare as compare
    from supcon_tf.config import AddClassConfig as AddClassConfig
    from supcon_tf.config import ClassifierConfig as ClassifierConfig
    from supcon_tf.config import CompareConfig as CompareConfig
    from supcon_tf.config import EvaluateConfig as EvaluateConfig
    from supcon_tf.config import ExportConfig as ExportConfig
    from supcon_tf.config import PredictConfig as PredictConfig
    from supcon_tf.config import PretrainConfig as PretrainConfig
    from supcon_tf.config import ServeConfig as ServeConfig
    from supcon_tf.config.search import TuneConfig as TuneConfig
    from supcon_tf.core.errors import UserError as UserError
    from supcon_tf.data.datasets import open_dataset as open_dataset
    from supcon_tf.data.policies import AUGMENTATIONS as AUGMENTATIONS
    from supcon_tf.data.policies import Augmentation as Augmentation
    from supcon_tf.data.streams import training_views as training_views
    from supcon_tf.engine.devices import make_strategy as make_strategy
    from supcon_tf.engine.method import ContrastiveModel as ContrastiveModel
    from supcon_tf.engine.optimizer_factory import make_optimizer as make_optimizer
    from supcon_tf.engine.optimizers import LAMB as LAMB
    from supcon_tf.engine.optimizers import LARS as LARS
    from supcon_tf.engine.optimizers import MomentumSGD as MomentumSGD
    from supcon_tf.engine.schedules import make_schedule as make_schedule
    from supcon_tf.engine.schedules import warmup_cosine as warmup_cosine
    from supcon_tf.engine.workers import gather_batch as gather_batch
    from supcon_tf.exporting.adding import add_class as add_class
    from supcon_tf.exporting.bundle import Bundle as Bundle
    from supcon_tf.exporting.bundle import load_bundle as load_bundle
    from supcon_tf.exporting.calibration import fit_temperature as fit_temperature
    from supcon_tf.exporting.evaluation import evaluate as evaluate
    from supcon_tf.exporting.export import export as export
    from supcon_tf.exporting.prediction import predict as predict
    from supcon_tf.losses.cacr import CACRLoss as CACRLoss
    from supcon_tf.losses.cacr import cacr_loss as cacr_loss
    from supcon_tf.losses.label_overlap import jaccard_overlap as jaccard_overlap
    from supcon_tf.losses.max_margin import MaxMarginLoss as MaxMarginLoss
    from supcon_tf.losses.max_margin import max_margin_loss as max_margin_loss
    from supcon_tf.losses.metrics import Alignment as Alignment
    from supcon_tf.losses.metrics import AnchorsWithoutPositives as AnchorsWithoutPositives
    from supcon_tf.losses.metrics import EffectiveRank as EffectiveRank
    from supcon_tf.losses.metrics import PositivesPerAnchor as PositivesPerAnchor
    from supcon_tf.losses.metrics import Uniformity as Uniformity
    from supcon_tf.losses.metrics import alignment as alignment
    from supcon_tf.losses.metrics import positives_per_anchor as positives_per_anchor
    from supcon_tf.losses.metrics import uniformity as uniformity
    from supcon_tf.losses.npairs import NPairsLoss as NPairsLoss
    from supcon_tf.losses.npairs import npairs_loss as npairs_loss
    from supcon_tf.losses.simclr import SimCLRLoss as SimCLRLoss
    from supcon_tf.losses.supcon import SupConLoss as SupConLoss
    from supcon_tf.losses.supcon import supcon_loss as supcon_loss
    from supcon_tf.losses.triplet import TripletLoss as TripletLoss
    from supcon_tf.losses.triplet import triplet_loss as triplet_loss
    from supcon_tf.methods.cross_entropy import CrossEntropyModel as CrossEntropyModel
    from supcon_tf.methods.pairwise import PairwiseModel as PairwiseModel
    from supcon_tf.networks.copies import portable_copy as portable_copy
    from supcon_tf.networks.copies import training_copy as training_copy
    from supcon_tf.networks.encoders import build_encoder as build_encoder
    from supcon_tf.networks.heads import ProjectionHead as ProjectionHead
    from supcon_tf.networks.heads import build_classifier as build_classifier
    from supcon_tf.networks.queue import MemoryQueue as MemoryQueue
    from supcon_tf.search.tuning import tune as tune
    from supcon_tf.stages.classification import train_classifier as train_classifier
    from supcon_tf.stages.planning import plan as plan
    from supcon_tf.stages.pretraining import pretrain as pretrain
    from supcon_tf.stages.scores import expected_calibration_error as expected_calibration_error
    from supcon_tf.stages.scores import knn_predict as knn_predict
    from supcon_tf.stages.scores import soft_neighbor_predict as soft_neighbor_predict

_PUBLIC = {
    "AUGMENTATIONS": "data.policies",
    "AddClassConfig": "config",
    "Alignment": "losses.metrics",
    "AnchorsWithoutPositives": "losses.metrics",
    "Augmentation": "data.policies",
    "Bundle": "exporting.bundle",
    "CACRLoss": "losses.cacr",
    "ClassifierConfig": "config",
    "CompareConfig": "config",
    "ContrastiveModel": "engine.method",
    "CrossEntropyModel": "methods.cross_entropy",
    "EffectiveRank": "losses.metrics",
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "LAMB": "engine.optimizers",
    "LARS": "engine.optimizers",
    "MaxMarginLoss": "losses.max_margin",
    "MemoryQueue": "networks.queue",
    "MomentumSGD": "engine.optimizers",
    "NPairsLoss": "losses.npairs",
    "PairwiseModel": "methods.pairwise",
    "PositivesPerAnchor": "losses.metrics",
    "PredictConfig": "config",
    "PretrainConfig": "config",
    "ProjectionHead": "networks.heads",
    "ServeConfig": "config",
    "SimCLRLoss": "losses.simclr",
    "SupConLoss": "losses.supcon",
    "TripletLoss": "losses.triplet",
    "TuneConfig": "config.search",
    "Uniformity": "losses.metrics",
    "UserError": "core.errors",
    "add_class": "exporting.adding",
    "alignment": "losses.metrics",
    "build_classifier": "networks.heads",
    "build_encoder": "networks.encoders",
    "cacr_loss": "losses.cacr",
    "compare": "comparison.comparing",
    "evaluate": "exporting.evaluation",
    "expected_calibration_error": "stages.scores",
    "export": "exporting.export",
    "fit_temperature": "exporting.calibration",
    "gather_batch": "engine.workers",
    "jaccard_overlap": "losses.label_overlap",
    "knn_predict": "stages.scores",
    "load_bundle": "exporting.bundle",
    "make_optimizer": "engine.optimizer_factory",
    "make_schedule": "engine.schedules",
    "make_strategy": "engine.devices",
    "max_margin_loss": "losses.max_margin",
    "npairs_loss": "losses.npairs",
    "open_dataset": "data.datasets",
    "plan": "stages.planning",
    "portable_copy": "networks.copies",
    "positives_per_anchor": "losses.metrics",
    "predict": "exporting.prediction",
    "pretrain": "stages.pretraining",
    "soft_neighbor_predict": "stages.scores",
    "supcon_loss": "losses.supcon",
    "train_classifier": "stages.classification",
    "training_copy": "networks.copies",
    "training_views": "data.streams",
    "triplet_loss": "losses.triplet",
    "tune": "search.tuning",
    "uniformity": "losses.metrics",
    "warmup_cosine": "engine.schedules",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'supcon_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(f"supcon_tf.{_PUBLIC[name]}"), name)


def __dir__():
    return __all__
