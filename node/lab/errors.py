"""What can go wrong with a lab, in words for people."""


class LabError(Exception):
    """The lab cannot do what was asked."""


class NoSuchLab(LabError):
    """There is no lab of that name."""
