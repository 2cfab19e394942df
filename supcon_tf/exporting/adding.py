"""Classes added to an exported model by nearest prototype, from a few images and no training."""

import dataclasses
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from supcon_tf.config import AddClassConfig, ExportConfig
from supcon_tf.core.errors import UserError
from supcon_tf.core.files import writing
from supcon_tf.core.interrupts import noting_interrupts
from supcon_tf.core.provenance import resumption
from supcon_tf.data.splits import Split
from supcon_tf.exporting import added_scores, onnx_model, tflite
from supcon_tf.exporting.bundle import Bundle, load_bundle
from supcon_tf.exporting.calibration import fit_scale
from supcon_tf.exporting.comparing import check_exports, compare_exports, start_reload
from supcon_tf.exporting.export import finish_bundle
from supcon_tf.exporting.index import index_scores, write_index_images
from supcon_tf.exporting.layout import (
    HELD_OUT,
    INDEX_IMAGES,
    THUMBNAILS,
    newest_bundle,
    next_version,
)
from supcon_tf.exporting.new_classes import NewClasses, find_images
from supcon_tf.exporting.servable import Head, Index, Servable, read_head
from supcon_tf.stages.features import encode_split
from supcon_tf.stages.scores import unit_rows

_UNCALIBRATED = "tflite_int8"  # Calibrating it needs the training images.
Images = tuple[np.ndarray, np.ndarray]  # Features float32 [N, F] and labels int [N].


@noting_interrupts()
def add_class(config: AddClassConfig) -> dict:
    """Writes a bundle's next version, with new classes in addition to the trained ones.

    A new class is the mean direction of its images' embeddings. The trained classes keep their
    classifier, by which they share the probability that the new classes leave
    (`Servable.probabilities`). There is no int8 model.

    Args:
        config: the settings; `config.images` holds one subfolder of images for each new class.

    Returns:
        `path`; `learned_from`, the number of images of each new class; the results of `top1_scores`
        on held-out images; `calibration` and `index` over all of these; and the results of
        `compare_exports` on those of the new classes.

    Raises:
        UserError: if the bundle is unsound or has no index, the folder's images or class names
            cannot be used, the bundle's images have several classes, or a new class scores less
            than `config.min_top1`.
    """
    bundle = load_bundle(newest_bundle(config.model).resolve())
    if bundle.multi_label:
        raise UserError(
            "classes can be added only to models of one class per image. Received: "
            f"{bundle.path}, whose images have several. Train it again with the new classes."
        )
    settings = bundle.export_settings()
    onnx_model.check_formats(settings.format_names())
    index, old = _read_index(bundle), _read_held_out(bundle)
    new = find_images(config, bundle)
    target = next_version(bundle.path.parent)
    with writing(target) as temporary:
        print(f"adding {', '.join(new.names)} in {target}", file=sys.stderr)
        temporary.mkdir(parents=True)
        metadata = _metadata(bundle, target, new, config)
        scores = _write(temporary, metadata, bundle, settings, index, old, new, config)
    return {"path": str(target), **scores}


def _read_index(bundle: Bundle) -> Index:
    """The bundle's index, which must have images of each of its classes."""
    labels = bundle.model.index_labels.numpy() if bundle.num_neighbors else np.zeros(0, int)
    missing = sorted(set(range(len(bundle.class_names))) - set(labels))
    if missing:
        raise UserError(
            f"the index of {bundle.path} has no image of class {bundle.class_names[missing[0]]!r}. "
            "Export it again with more --index_images."
        )
    if len(bundle.index_images()) != len(labels):
        raise UserError(f"{bundle.path}/{INDEX_IMAGES} is damaged. Export it again.")
    embeddings, distances = bundle.model.index_embeddings, bundle.model.index_distances
    return Index(embeddings.numpy(), labels, distances.numpy(), bundle.num_neighbors)


def _read_held_out(bundle: Bundle) -> Images:
    """The features of the old classes' held-out images."""
    try:
        with np.load(bundle.path / HELD_OUT, allow_pickle=False) as arrays:
            features, labels = arrays["features"], arrays["labels"]
        if features.shape != (*labels.shape, len(bundle.model.kernel.numpy())):
            raise ValueError(features.shape)
        known = 0 <= labels.min() <= labels.max() < len(bundle.class_names)
        known = known and features.dtype.kind + labels.dtype.kind == "fi"
        if not (known and np.isfinite(features).all()):
            raise ValueError("values")
        return features.astype(np.float32), labels.astype(np.int32)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{bundle.path}/{HELD_OUT} is damaged. Export it again.") from error


def _metadata(bundle: Bundle, target: Path, new: NewClasses, config: AddClassConfig) -> dict:
    class_names = [*bundle.class_names, *new.names]
    counts = np.bincount(new.support.labels(), minlength=len(class_names)).tolist()
    added = {
        **resumption(),
        "from_version": bundle.version,
        "images": dict(zip(new.names, counts[-len(new.names) :], strict=True)),
        "fingerprint": new.support.fingerprint,
        "settings": config.to_dict(),
    }
    return {
        **bundle.metadata,
        "name": target.parent.name,
        "version": int(target.name),
        "class_names": class_names,
        "added": [*bundle.metadata.get("added", []), added],
    }


def _write(
    path: Path,
    metadata: dict,
    bundle: Bundle,
    settings: ExportConfig,
    index: Index,
    old: Images,
    new: NewClasses,
    config: AddClassConfig,
) -> dict:
    """Writes the new version into a folder and returns its scores."""
    class_names, batch_size = metadata["class_names"], config.batch_size
    head, index = _extend(bundle, index, *_encode(bundle, new.support, batch_size), class_names)
    model = _servable(bundle, head, index, class_names)
    unseen = _encode(bundle, new.held_out, batch_size)
    features, labels = (np.concatenate(parts) for parts in zip(old, unseen, strict=True))
    probabilities = _probabilities(model, features)
    before = _probabilities_before(bundle, old[0])
    top1 = added_scores.top1_scores(before, probabilities, labels, class_names)
    added_scores.check_top1(top1, config.min_top1)
    model.save(path)
    _write_index_images(path, bundle, new.support, class_names)
    formats = _convert(path, metadata, bundle, settings)
    np.savez(path / HELD_OUT, features=features, labels=labels)
    expected = probabilities[len(old[1]) :]
    with start_reload(path, formats) as reload:
        compared = compare_exports(
            path, formats, new.held_out, len(unseen[1]), expected, unseen[1], reload
        )
    check_exports(path, compared, settings.max_difference, settings.max_tflite_loss)
    scores = {
        "learned_from": metadata["added"][-1]["images"],
        **top1,
        "calibration": added_scores.calibration(bundle.metrics, probabilities, labels),
        "index": index_scores(index, features),
        **compared,
    }
    finish_bundle(path, metadata, {**bundle.metrics, "added": scores})
    return scores


def _convert(path, metadata, bundle, settings):
    """Writes the TFLite and ONNX models that the bundle has; returns the formats to compare."""
    left_out = {_UNCALIBRATED, *bundle.metrics["export"].get("failed", {})}
    formats = [name for name in settings.format_names() if name not in left_out]
    tflite.write_all(path, metadata, formats, select_ops=settings.tflite_select_ops)
    if onnx_model.FORMAT in formats:
        onnx_model.write(path, metadata)
    return formats


def _probabilities_before(bundle: Bundle, features: np.ndarray) -> np.ndarray:
    """The bundle's own answers for the features of its held-out images."""
    head = read_head(bundle.model)
    return _probabilities(_servable(bundle, head, None, bundle.class_names), features)


def _encode(bundle: Bundle, split: Split, batch_size: int) -> Images:
    """Features of a split by the bundle's own encoder."""
    encode, size = bundle.model.encode, bundle.image_size_px
    return encode_split(encode, size, split, batch_size=batch_size, progress="features")


def _extend(
    bundle: Bundle, index: Index, features: np.ndarray, labels: np.ndarray, class_names: list[str]
) -> tuple[Head, Index]:
    """The bundle's head with prototypes of all classes, and its index with the new images."""
    embeddings, head = unit_rows(features), read_head(bundle.model)
    old = head.prototypes
    if old is None:
        old = mean_directions(index.embeddings, index.labels, range(len(bundle.class_names)))
    new = mean_directions(embeddings, labels, range(len(old), len(class_names)))
    prototypes = np.concatenate([old, new])
    scale = fit_scale(prototypes, index.embeddings, index.labels, embeddings, labels)
    return (
        dataclasses.replace(head, prototypes=prototypes, prototype_scale=scale),
        dataclasses.replace(
            index,
            embeddings=np.concatenate([index.embeddings, embeddings]),
            labels=np.concatenate([index.labels, labels]),
        ),
    )


def mean_directions(
    embeddings: np.ndarray, labels: np.ndarray, classes: Sequence[int]
) -> np.ndarray:
    """The prototype of each class: the mean of its embeddings, scaled to unit norm.

    Args:
        embeddings: float32 [N, F], unit norm.
        labels: int [N].
        classes: K labels, each of which occurs.

    Returns:
        float32 [K, F].

    Reference:
        Snell et al. 2017, "Prototypical Networks for Few-shot Learning", eq. 1. Differs: the
        prototypes have unit norm and are compared by cosine.
    """
    return unit_rows([embeddings[labels == label].mean(axis=0) for label in classes])


def _servable(bundle: Bundle, head: Head, index: Index | None, class_names) -> Servable:
    """The bundle's encoder with a different head."""
    encode, variables = bundle.model.encode, bundle.model.encoder_variables
    return Servable(encode, variables, head, index, class_names, bundle.image_size_px)


def _probabilities(model: Servable, features: np.ndarray) -> np.ndarray:
    return model.probabilities(tf.constant(features)).numpy()


def _write_index_images(path: Path, bundle: Bundle, support: Split, class_names) -> None:
    """Copies the names and thumbnails of the bundle's index, and adds those of the new images."""
    shutil.copytree(bundle.path / "index", path / "index")
    thumbnails, rows = (bundle.path / THUMBNAILS).exists(), len(bundle.index_images())
    write_index_images(path, support, class_names, bundle.image_size_px, thumbnails, rows)
