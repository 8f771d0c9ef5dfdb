"""Logs on their way from workers to whoever asked (proto/flota/v1/logs.proto)."""

from flota.manager.logbroker.broker import LogBroker

__all__ = ["LogBroker"]
