"""Metrics for Prometheus, in addition to KServe's own histograms of the time of each phase."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "supcon_requests", "Requests answered, by kind of route and status.", ["route", "status"]
)
IMAGES = Counter("supcon_images", "Images that a model has classified.")
BATCHES = Histogram(
    "supcon_batch_images", "Images classified at once.", buckets=[2**power for power in range(13)]
)
QUEUE = Gauge("supcon_queue_images", "Images that wait, or are being decoded.")
HELD_BYTES = Gauge("supcon_request_bytes", "Bytes held of bodies, and of images made of them.")
VERSION = Gauge("supcon_model_version", "Version of the model that is served.", ["model_name"])
REFUSED = Gauge("supcon_refused_versions", "Versions in the model's folder that were refused.")
