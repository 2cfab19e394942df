"""The networks and settings of the timed steps, the same for ours and the peer."""

import dataclasses
import json

from _shared import BENCHMARKS  # First: it puts the benchmarks on the path.

from _contestants import STEP_SETTINGS, Contestant  # isort: skip

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


@dataclasses.dataclass
class Timed:
    """A contestant that waits to begin, and what its row begins with."""

    contestant: object
    network: str
    cells: tuple

    def views(self):
        """Views of one step."""
        return 2 * NETWORKS[self.network]["batch_size"]


def start(python, network, cells, **task):
    """Starts a worker that builds its step and then waits."""
    precision = PRECISIONS[cells[0]]
    settings = {
        **STEP_SETTINGS,
        "num_views": 2,
        **NETWORKS[network],
        "precision": precision,
        **task.pop("settings"),
    }
    task = json.dumps({"settings": settings, "hold": True, **task})
    variables = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    name = f"{network} {' '.join(cells)}"
    return Timed(
        Contestant(name, [python, str(WORKER), task], variables, hold=True), network, cells
    )


def each(timed):
    """Yields each, with None once it is ready or its error; each ends before the next begins."""
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
