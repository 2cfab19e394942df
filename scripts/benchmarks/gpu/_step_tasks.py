"""The networks and settings of the timed steps, the same for ours and the peer."""

import dataclasses
import json

from _shared import BENCHMARKS

WORKER = BENCHMARKS / "_training_worker.py"
NETWORKS = {
    "ResNet-18, 32 px": {
        "encoder": "resnet18",
        "image_size_px": 32,
        "batch_size": 512,
        "augmentation": "cifar",
        "projection_hidden_dim": 512,
    },
    "ResNet-50, 224 px": {
        "encoder": "resnet50",
        "image_size_px": 224,
        "batch_size": 64,
        "augmentation": "imagenet",
        "projection_hidden_dim": 2048,
    },
}
PRECISIONS = {"TF32": "float32", "bfloat16": "mixed_bfloat16"}
SECONDS = 3.0
_SETTINGS = {
    "method": "supcon_out",
    "num_views": 2,
    "temperature": 0.1,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "epochs": 10**6,
}


@dataclasses.dataclass
class Timed:
    """A contestant that waits to begin, and what its row begins with."""

    contestant: object
    network: str
    cells: tuple

    def views(self):
        """Views of one step."""
        return 2 * NETWORKS[self.network]["batch_size"]


def start(python, network, cells, environment=None, **task):
    """Starts a worker that builds its step and then waits."""
    from _contestants import Contestant

    precision = PRECISIONS[cells[0]]
    settings = {**_SETTINGS, **NETWORKS[network], "precision": precision, **task.pop("settings")}
    task = json.dumps({"settings": settings, "hold": True, **task})
    variables = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **(environment or {})}
    name = f"{network} {' '.join(cells)}"
    return Timed(
        Contestant(name, [python, str(WORKER), task], variables, hold=True), network, cells
    )


def each(timed):
    """Those that came to be ready, one after another; each ends before the next one begins."""
    from supcon_tf.core.errors import UserError

    try:
        for one in timed:
            try:
                one.contestant.wait()
                yield one, None
            except UserError as error:
                yield one, error
            finally:
                one.contestant.close()
    finally:
        for one in timed:  # Those whose turn never came.
            one.contestant.close()
