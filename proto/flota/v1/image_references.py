"""Names of images: [HOST[:PORT]/]PATH[:TAG][@DIGEST], as people write them and in full.

The grammar is that of the distribution project's reference package, and so is what is left out: `busybox` stands for
`docker.io/library/busybox:latest`. Pure.
"""

import re
from dataclasses import dataclass, replace

_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PATH_PART}(?:/{_PATH_PART})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_LONGEST_NAME = 255
_HUB = "docker.io"
_OFFICIAL = "library/"
_LATEST = "latest"


@dataclass(frozen=True, order=True)
class ImageReference:
    """A name in full. `str` gives all of it, `familiar` what people call it."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "ImageReference":
        """Raises ValueError that says what is wrong with the text."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            hint = "repository names are lower case; " if text != text.lower() else ""
            raise ValueError(f"{hint}allowed is [HOST[:PORT]/]NAME[:TAG][@DIGEST]")
        if len(found["name"]) > _LONGEST_NAME:
            raise ValueError(f"its name is longer than {_LONGEST_NAME} characters")
        host, slash, path = found["name"].partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost" or host != host.lower()):
            host, path = _HUB, found["name"]
        elif host == f"index.{_HUB}":
            host = _HUB
        if host == _HUB and "/" not in path:
            path = _OFFICIAL + path
        return cls(host, path, found["tag"] or "", (found["digest"] or "").lower())

    @property
    def name(self) -> str:
        """Without tag and digest: docker.io/library/busybox."""
        return f"{self.host}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The same as people write it: busybox."""
        if self.host != _HUB:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        # Not when that would be read as another name.
        for candidate in (short, self.path):
            if ImageReference.parse(candidate).name == self.name:
                return candidate
        return self.name

    @property
    def familiar(self) -> str:
        """What people call it: busybox:latest."""
        return self.familiar_name + self._suffix()

    def tagged(self) -> "ImageReference":
        """With the tag that is meant when neither tag nor digest is given."""
        return self if self.tag or self.digest else replace(self, tag=_LATEST)

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
