"""The control API: validation, defaults, and one store transaction per request."""
