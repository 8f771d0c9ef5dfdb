"""What the image store tells Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

IMAGES = Gauge("flota_worker_images", "Images on this node.")
BYTES = Gauge("flota_worker_image_bytes", "Bytes of their layers, of shared ones once.")
UNPACKED = Counter("flota_worker_layers_unpacked", "Layers unpacked.")
COLLECTED = Counter("flota_worker_images_collected", "Images that nobody needed, removed by themselves.")
PULLS = Counter(
    "flota_worker_image_pulls",
    "Pulls by how they ended: done, failed, given up (nobody needed it any more).",
    ["result"],
)
PULL = Histogram(
    "flota_worker_image_pull_seconds",
    "How long pulls took that brought an image.",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
