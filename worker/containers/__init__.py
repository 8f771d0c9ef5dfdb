"""Containers of this node that belong to no service, and the networks that are this node's alone."""
