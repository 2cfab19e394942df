"""What a model is asked for and answers with: the outputs and the signatures of all protocols."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of an image.

    Args:
        name: as the SavedModel's signatures call it.
        datatype: of the V2 protocol.
        per: what there is one value for, "class", "feature" or "neighbor"; "" for one of an image.
    """

    name: str
    datatype: str
    per: str = ""

    @property
    def dtype(self) -> np.dtype:
        """Of an array of it: little-endian; text as objects."""
        return _DTYPES[self.datatype]

    @property
    def contents(self) -> str:
        """The field of gRPC's tensors that holds its values."""
        return _CONTENTS[self.datatype]


_DTYPES = {"INT32": np.dtype("<i4"), "FP32": np.dtype("<f4"), "BYTES": np.dtype(object)}
_CONTENTS = {"INT32": "int_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
_CLASSIFICATION = (
    Output("class_id", "INT32"),
    Output("class_name", "BYTES"),
    Output("probabilities", "FP32", "class"),
    Output("embeddings", "FP32", "feature"),
)
_NEIGHBORS = (
    Output("neighbor_ids", "INT32", "neighbor"),
    Output("neighbor_labels", "INT32", "neighbor"),
    Output("neighbor_class_names", "BYTES", "neighbor"),
    Output("similarities", "FP32", "neighbor"),
    Output("out_of_distribution", "FP32"),
)
OUTPUTS = {output.name: output for output in (*_CLASSIFICATION, *_NEIGHBORS)}
# What a request may name, and what it is answered with. How the images come is seen from them.
SIGNATURES = {
    "serving_default": tuple(output.name for output in _CLASSIFICATION),
    "serving_uint8": tuple(output.name for output in _CLASSIFICATION),
    "serving_bytes": tuple(output.name for output in _CLASSIFICATION),
    "embed": ("embeddings",),
    "neighbors": tuple(output.name for output in _NEIGHBORS),
}


def signatures_of(num_neighbors: int) -> list[str]:
    """The signatures of a model; without an index there are no neighbours."""
    return [name for name in SIGNATURES if name != "neighbors" or num_neighbors]


def describe(num_classes: int, num_neighbors: int) -> list[dict]:
    """The outputs of a model, as the V2 protocol's metadata names them.

    Args:
        num_classes: C.
        num_neighbors: k; 0 without an index.
    """
    sizes = {"": [], "class": [num_classes], "feature": [-1], "neighbor": [num_neighbors]}
    names = dict.fromkeys(
        name for signature in signatures_of(num_neighbors) for name in SIGNATURES[signature]
    )
    return [
        {
            "name": name,
            "datatype": OUTPUTS[name].datatype,
            "shape": [-1, *sizes[OUTPUTS[name].per]],
        }
        for name in names
    ]
