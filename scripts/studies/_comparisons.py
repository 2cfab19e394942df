"""The comparisons, as data: for each study the shared settings and those of every arm."""

from _study import Study

_DIGITS = {"dataset": "digits", "encoder": "resnet8", "augmentation": "symbols"}
# Folders written by write_fashion_mnist.py: 5,000 images, or 800 if exponentially imbalanced.
_FASHION = {"dataset": "folder:runs/fashion", "image_size_px": 16, "augmentation": "symbols"}
_SMALL_FASHION = {
    **_FASHION,
    "encoder": "resnet8",
    "width_multiplier": 0.5,
    "batch_size": 256,
    "epochs": 20,
    "learning_rate": 0.2,
}
_RARE = {"dataset": "folder:runs/fashion_rare"}
_BALANCED = {"classes_per_batch": 10, "images_per_class": 12}
# A small plain network that learns in minutes on a CPU.
_FAST = {
    "encoder": "airbench94",
    "width_multiplier": 0.25,
    "batch_size": 120,
    "epochs": 20,
    "optimizer": "muon",
    "momentum": 0.9,
    "learning_rate": 0.06,
    "weight_decay": 0.0,
}
_WEIGHTS = {
    "tuned": {"t_positive": 1.0, "t_negative": 2.0},
    "uniform": {"t_positive": 0.0, "t_negative": 0.0},
}


def _comatch(**changes):
    """CoMatch with augmentations for symbols, or a part of it."""
    shared = {"unlabelled_ratio": 4, "weak": "weak_symbols", "strong": "strong_symbols"}
    return {"method": "comatch", "method_args": {**shared, **changes}}


def _attraction_and_repulsion(views, **changes):
    """CACR with tuned and with uniform weights, and SimCLR, with this many views."""
    name = f"K = {views - 1}"
    arms = {
        f"{kind} weights, {name}": {"method": "cacr", "method_args": weights}
        for kind, weights in _WEIGHTS.items()
    }
    arms[f"SimCLR, {name}"] = {"method": "simclr", "temperature": 0.5}
    return {title: {"num_views": views, **arm, **changes} for title, arm in arms.items()}


def _rare(arms):
    return {f"{title}, imbalanced": {**arm, **_RARE, "epochs": 75} for title, arm in arms.items()}


_CACR = {
    **_FASHION,
    "encoder": "resnet8",
    "width_multiplier": 0.5,
    "batch_size": 128,
    "epochs": 12,
    "learning_rate": 0.06,
}


def _without_simclr(arms):
    return {title: arm for title, arm in arms.items() if not title.startswith("SimCLR")}


STUDIES = {
    "suncet": Study(
        title="Digits, labels of a tenth of the images: SimCLR with and without SuNCEt",
        base={
            **_DIGITS,
            "labelled_fraction": 0.1,
            "validation_fraction": 0.2,
            "batch_size": 256,
            "epochs": 60,
            "temperature": 0.1,
            "learning_rate": 0.2,
        },
        arms={
            "SimCLR": {"method": "simclr"},
            "SimCLR + SuNCEt": {"method": "suncet", "method_args": {"images_per_class": 4}},
        },
        scores=("soft_neighbors_top1", "knn_top1", "top1"),
        curves=("knn_top1",),
        evaluation={"soft_neighbors_temperature": 0.1},
        reached="knn_top1",
    ),
    "comatch": Study(
        title="Digits, four labels per class: supervised, FixMatch, CoMatch",
        base={
            **_DIGITS,
            "labels_per_class": 4,
            "batch_size": 32,
            "epochs": 120,
            "learning_rate": 0.05,
            "nesterov": True,
            "weight_decay": 5e-4,
            "schedule": "partial_cosine",
            "warmup_epochs": 0.0,
            "ema_momentum": 0.99,
        },
        arms={
            "supervised alone": _comatch(alpha=1.0, graph_weight=0.0, pseudo_label_weight=0.0),
            "FixMatch": _comatch(alpha=1.0, graph_weight=0.0),
            "CoMatch": {**_comatch(), "embedding_dim": 64},
        },
        curves=("pseudo_label_top1", "smoothed_top1", "confident"),
        gain=("smoothed_top1", "pseudo_label_top1"),
    ),
    "joint": Study(
        title="Digits: SupCon and cross entropy, one after the other or together",
        base={**_DIGITS, "batch_size": 256, "epochs": 60, "learning_rate": 0.2},
        arms={
            "SupCon, then a linear head": {"method": "supcon_out", "temperature": 0.1},
            "cross entropy": {"method": "cross_entropy"},
            "joint, weight 0.1": {
                "method": "joint",
                "temperature": 0.1,
                "method_args": {"cross_entropy_weight": 0.1},
            },
            "joint, weight 1": {
                "method": "joint",
                "temperature": 0.1,
                "method_args": {"cross_entropy_weight": 1.0},
            },
        },
    ),
    "successors": Study(
        title="Fashion-MNIST, 500 images per class: SupCon, its successors, cross entropy",
        base={
            **_SMALL_FASHION,
        },
        arms={
            "SupCon": {"method": "supcon_out", "temperature": 0.1},
            "SINCERE": {"method": "sincere", "temperature": 0.1},
            "epsilon-SupInfoNCE": {"method": "epsilon_supinfonce", "temperature": 0.1},
            "joint, weight 0.1": {
                "method": "joint",
                "temperature": 0.1,
                "method_args": {"cross_entropy_weight": 0.1},
            },
            "joint, weight 1": {
                "method": "joint",
                "temperature": 0.1,
                "method_args": {"cross_entropy_weight": 1.0},
            },
            "cross entropy": {"method": "cross_entropy"},
        },
    ),
    "cacr": Study(
        title="Fashion-MNIST, 500 images per class or exponentially fewer: CACR's weights",
        base=_CACR,
        arms={
            **_attraction_and_repulsion(2),
            **_attraction_and_repulsion(5),
            **_rare(_attraction_and_repulsion(5)),
        },
    ),
    "cacr_imbalance": Study(
        title="CACR's weights on balanced and imbalanced images, for more seeds",
        base=_CACR,
        arms=_without_simclr(
            {**_attraction_and_repulsion(5), **_rare(_attraction_and_repulsion(5))}
        ),
    ),
    "loco": Study(
        title="Fashion-MNIST: one network trained as a whole and stage by stage",
        base={
            **_FASHION,
            "encoder": "resnet18",
            "width_multiplier": 0.125,
            "batch_size": 256,
            "epochs": 20,
            "learning_rate": 0.2,
            "method": "loco",
            "temperature": 0.2,
        },
        arms={
            "Greedy InfoMax (overlap 0)": {"method_args": {"overlap": 0}},
            "LoCo (overlap 1)": {"method_args": {"overlap": 1}},
            "end to end (overlap 3)": {"method_args": {"overlap": 3, "first_loss": 4}},
        },
    ),
    "fine_tuning": Study(
        title="Fashion-MNIST, 500 images per class: a linear head and fine-tuning",
        base={
            **_SMALL_FASHION,
            "method": "supcon_out",
            "validation_fraction": 0.1,
        },
        arms={
            "linear head": {},
            "last stage fine-tuned": {},
            "all fine-tuned": {},
            "all fine-tuned at one rate": {},
        },
        scores=("top1", "nll"),
        classifiers={
            "last stage fine-tuned": {"fine_tune": "1", "encoder_rate_factor": 0.1},
            "all fine-tuned": {"fine_tune": "all", "encoder_rate_factor": 0.1},
            "all fine-tuned at one rate": {"fine_tune": "all", "encoder_rate_factor": 1.0},
        },
    ),
    "long_tail": Study(
        title="CIFAR-10-LT, imbalance 100",
        base={
            "dataset": "cifar10_lt",
            "image_size_px": 32,
            "augmentation": "cifar",
            "method": "supcon_out",
            "temperature": 0.1,
            **_FAST,
        },
        arms={
            "SupCon": {},
            "SupCon, logit adjustment": {},
            "SupCon, balanced batches, logit adjustment": {**_BALANCED},
            "cross entropy": {"method": "cross_entropy", "temperature": None},
            "cross entropy, logit adjustment": {
                "method": "cross_entropy",
                "temperature": None,
                "method_args": {"logit_adjustment": 1.0},
            },
        },
        scores=("top1", "macro_f1", "knn_top1"),
        classifiers={
            "SupCon, logit adjustment": {"logit_adjustment": 1.0},
            "SupCon, balanced batches, logit adjustment": {"logit_adjustment": 1.0},
        },
    ),
    "orderings": Study(
        title="5,000 images of CIFAR-10: what SupCon lacks",
        base={
            "dataset": "cifar10",
            "train_images": 5000,
            **_FAST,
            "augmentation": "cifar",
            "batch_size": 256,
            "epochs": 40,
        },
        arms={
            "SupCon": {},
            "SupCon, all fine-tuned": {},
            "SupCon, temperature 0.05": {"temperature": 0.05},
            "SupCon, temperature 0.2": {"temperature": 0.2},
            "SupCon, linear projection": {"projection_hidden_dim": 0},
            "SupCon, projection 1,024 to 256": {
                "projection_hidden_dim": 1024,
                "embedding_dim": 256,
            },
            "SupCon, shifts and flips": {"augmentation": "alternating_flip"},
            "SupCon, 120 epochs": {"epochs": 120},
            "cross entropy": {"method": "cross_entropy"},
            "cross entropy, shifts and flips": {
                "method": "cross_entropy",
                "augmentation": "alternating_flip",
            },
            "cross entropy, 120 epochs": {"method": "cross_entropy", "epochs": 120},
        },
        scores=("top1", "knn_top1", "ece"),
        classifiers={
            "SupCon, all fine-tuned": {"fine_tune": "all", "encoder_rate_factor": 0.1},
        },
    ),
    "knn": Study(
        title="Fashion-MNIST, classes of 50 to 500 images",
        base={**_FASHION, **_FAST, "dataset": "folder:runs/fashion_linear"},
        arms={
            "SupCon": {"temperature": 0.1},
            "SupCon, balanced batches": {"temperature": 0.1, **_BALANCED},
            "SupCon, 80 epochs": {"temperature": 0.1, "epochs": 80},
            "cross entropy": {"method": "cross_entropy"},
            "cross entropy, 80 epochs": {"method": "cross_entropy", "epochs": 80},
        },
        scores=("knn_top1", "top1", "macro_f1"),
    ),
    "several_classes": Study(
        title="Collages of Fashion-MNIST, one to three garments in each of 2,000",
        base={
            "dataset": "csv:runs/collages/labels.csv",
            "image_size_px": 32,
            "encoder": "resnet8",
            "width_multiplier": 0.5,
            "augmentation": "symbols",
            "batch_size": 128,
            "epochs": 30,
            "learning_rate": 0.1,
        },
        arms={
            "SupCon, weighted by overlap": {"method": "supcon_out"},
            "SimCLR": {"method": "simclr"},
            "cross entropy (sigmoid)": {"method": "cross_entropy"},
        },
        scores=("mean_average_precision", "micro_f1", "macro_f1", "exact_match", "knn_map"),
        curves=("knn_map",),
    ),
}
