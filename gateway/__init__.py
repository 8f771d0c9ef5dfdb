"""flota.gateway: the Docker Engine API over HTTP, translated to the control API."""
