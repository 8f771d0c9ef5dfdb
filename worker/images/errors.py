"""What can go wrong with images, in words for people."""


class ImageNotFound(Exception):
    """There is no such image on this node."""
