"""Structured logs: one JSON object a line on standard error, with the request id of the call at hand."""

import logging
import os
import sys

import structlog


def configure(process: str, node: str = "") -> None:
    """Set up logging for this process. FLOTA_LOG is debug, info (default), warning or error."""
    wanted = os.environ.get("FLOTA_LOG", "info").upper()
    level = logging.getLevelNamesMapping().get(wanted, logging.INFO)
    shared = {"process": process} | ({"node": node} if node else {})

    def add_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**shared, **event}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            add_process,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
