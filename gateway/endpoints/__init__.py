"""The endpoints of the Docker Engine API, a module for each of its sections."""
