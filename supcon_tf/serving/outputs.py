"""Outputs of a model and the signatures that group them, the same in all protocols."""

from typing import Any

from supcon_tf.serving.faults import NotFoundError, RequestError, shown

# Datatype in the V2 protocol, and the items for which an image has one value each, if any.
OUTPUTS = {
    "class_id": ("INT32", ""),
    "class_name": ("BYTES", ""),
    "probabilities": ("FP32", "class"),
    "embeddings": ("FP32", "feature"),
    "neighbor_ids": ("INT32", "neighbor"),
    "neighbor_labels": ("INT32", "neighbor"),
    "neighbor_class_names": ("BYTES", "neighbor"),
    "similarities": ("FP32", "neighbor"),
    "out_of_distribution": ("FP32", ""),
}
_CLASSIFICATION, _NEIGHBORS = tuple(OUTPUTS)[:4], tuple(OUTPUTS)[4:]
# Names that a request may use, and their outputs. The images themselves show their form.
SIGNATURES = {
    "serving_default": _CLASSIFICATION,
    "serving_uint8": _CLASSIFICATION,
    "serving_bytes": _CLASSIFICATION,
    "embed": ("embeddings",),
    "neighbors": _NEIGHBORS,
}


def signatures_of(bundle: Any) -> list[str]:
    """The signatures of a bundle; one without an index has no neighbors."""
    return [name for name in SIGNATURES if name != "neighbors" or bundle.num_neighbors]


def check_signature(name: Any, bundle: Any) -> str:
    """Returns the signature that a request names, or the default.

    Raises:
        RequestError: if it is unknown.
        NotFoundError: if it asks for neighbors, and the model has no index.
    """
    name = "serving_default" if name is None else name
    if not isinstance(name, str) or name not in SIGNATURES:
        known = ", ".join(SIGNATURES)
        raise RequestError(f"signature_name must be one of {known}. Received: {shown(name)}.")
    if name not in signatures_of(bundle):
        raise NotFoundError("this model was exported without an index; it has no neighbors.")
    return name


def describe(bundle: Any) -> list[dict[str, Any]]:
    """The outputs of a bundle as the V2 protocol's metadata lists them."""
    sizes = {"class": len(bundle.class_names), "feature": -1, "neighbor": bundle.num_neighbors}
    return [
        {"name": name, "datatype": datatype, "shape": [-1, sizes[items]] if items else [-1]}
        for name, (datatype, items) in OUTPUTS.items()
        if name in _CLASSIFICATION or bundle.num_neighbors
    ]
