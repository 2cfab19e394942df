"""Settings of export, added classes, prediction and serving."""

import dataclasses

from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError

RUNTIMES = ("saved_model", "float32", "float16", "dynamic", "int8")
FORMATS = ("saved_model", *(f"tflite_{precision}" for precision in RUNTIMES[1:]))
OPTIONAL_FORMATS = ("onnx",)  # They need packages that are not installed with this one.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Export of a run's classifier to a servable bundle."""

    run_dir: str = setting("runs/run", "Directory of the run.", identity=False)
    saved_models_dir: str = setting("saved_models", "Where bundles are kept.", identity=False)
    name: str = setting("", "Name of the model ('': the run directory's name).")
    version: int | None = setting(
        None,
        "Version (none: one more than the newest).",
        kind=int,
        at_least=1,
        below=2**31,
        identity=False,
    )
    formats: str = setting(
        ",".join(FORMATS),
        "Formats to write, comma-separated: saved_model and others; onnx needs supcon_tf[onnx].",
    )
    batch_size: int = setting(256, "Images per step while scoring.", at_least=1, at_most=2**20)
    neighbors: int = setting(
        10,
        "Nearest training images in an answer of the signature neighbors.",
        at_least=1,
        at_most=1000,
    )
    index_images: int = setting(
        50_000,
        "Largest number of training images in the index of neighbours (0: no index).",
        at_least=0,
        at_most=2**24,
    )
    thumbnails: bool = setting(True, "Put small pictures of the index's images into the bundle.")
    representative_images: int = setting(
        500, "Training images that calibrate the int8 model.", at_least=1
    )
    tflite_select_ops: bool = setting(
        False, "Allow TensorFlow's own operators in TFLite, which few devices run."
    )
    verify_images: int = setting(
        10_000, "Held-out images, at most, on which every export is compared.", at_least=1
    )
    max_difference: float = setting(
        1e-4,
        "Largest difference between the probabilities of a float32 export and those of Keras.",
        above=0,
    )
    max_tflite_loss: float = setting(
        0.01,
        "Smaller TFLite models that lose more top-1 (or mAP) than this are left out.",
        at_least=0,
    )

    def __post_init__(self):
        super().__post_init__()
        names, known = self.format_names(), (*FORMATS, *OPTIONAL_FORMATS)
        if not {"saved_model"} <= set(names) <= set(known) or len(names) != len(set(names)):
            raise UserError(
                f"formats must be saved_model and any of {', '.join(known[1:])}, each once, "
                f"separated by commas. Received: {self.formats!r}."
            )

    def format_names(self) -> list[str]:
        """The names in `formats`."""
        return [name.strip() for name in self.formats.split(",")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddClassConfig(Config):
    """Classes added to an exported model from a few images, without training."""

    model: str = setting("", "Exported model: saved_models/NAME, or one of its versions.")
    images: str = setting(
        "", "Folder with one subfolder of images for each new class.", any_bytes=True
    )
    holdout_fraction: float = setting(
        0.3, "Share of each new class's images to score on.", at_least=0.001, at_most=0.9
    )
    min_top1: float = setting(
        0.5,
        "Minimum top-1 on the held-out images of each new class; below it nothing is written.",
        at_least=0,
        at_most=1,
    )
    batch_size: int = setting(64, "Images per step.", at_least=1, at_most=2**20)
    seed: int = setting(0, "Seed of the hold-out.", at_least=0, below=2**31)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig(Config):
    """Serving of an exported model over HTTP and gRPC."""

    model_dir: str = setting(
        "", "Exported model: saved_models/NAME, whose newest version is served."
    )
    host: str = setting("127.0.0.1", "Address to listen on (0.0.0.0: all network interfaces).")
    http_port: int = setting(8080, "HTTP port (0: any free one).", at_least=0, at_most=65535)
    grpc_port: int | None = setting(
        None, "gRPC port (none: no gRPC; 0: any free one).", kind=int, at_least=0, at_most=65535
    )
    runtime: str = setting(
        "saved_model", "Runtime: TensorFlow, or one of the TFLite models.", choices=RUNTIMES
    )
    max_batch_size: int = setting(32, "Images processed at once.", at_least=1, at_most=4096)
    batch_wait_ms: float = setting(
        0.0, "Time to wait for a batch to fill.", at_least=0, at_most=1000
    )
    max_queue: int = setting(
        256,
        "Largest number of waiting images; further requests are answered with status 503.",
        at_least=1,
        at_most=2**20,
    )
    max_request_mb: float = setting(
        16.0, "Largest request, in MB of 1,000,000 bytes.", above=0, at_most=1024
    )
    max_image_megapixels: float = setting(
        50.0, "Largest image, in millions of pixels.", above=0, at_most=1000
    )
    poll_seconds: float = setting(
        2.0, "Time between two checks for a new version.", at_least=0.1, at_most=3600
    )
    drain_seconds: float = setting(
        30.0, "Time for running requests to end after SIGTERM.", at_least=1, at_most=3600
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.model_dir:
            raise UserError("no model given. Pass --model_dir=saved_models/NAME.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Classes of image files from an exported model."""

    model: str = setting(
        "",
        "saved_models/NAME, a version of it, a .tflite or .onnx file, or http://HOST:PORT.",
    )
    top_k: int = setting(
        1, "Classes to print for each image; where it has several, at least this many.", at_least=1
    )
    batch_size: int = setting(64, "Images per step.", at_least=1, at_most=2**20)
    format: str = setting("tsv", "Format of the output.", choices=("tsv", "csv", "jsonl"))
    output: str = setting("", "File to write ('': standard output).", any_bytes=True)
