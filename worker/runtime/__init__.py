"""Containers through an OCI runtime and conmon."""
