"""What the log broker tells Prometheus."""

from prometheus_client import Counter, Gauge

SUBSCRIPTIONS = Gauge("flota_logs_subscriptions", "Subscribers to logs.")
LISTENERS = Gauge("flota_logs_listeners", "Workers that can be asked for logs.")
LINES = Counter("flota_logs_lines", "Log lines passed on.")
