"""Dockerfile instructions of `image import --change`."""

from typing import Any

import pytest

from flota.rpc.errors import InvalidArgument
from flota.worker.images.changes import apply

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("instructions", "config"),
    [
        (["CMD /app --all"], {"Cmd": ["/bin/sh", "-c", "/app --all"]}),
        (['cmd ["/app", "a b"]'], {"Cmd": ["/app", "a b"]}),
        (["CMD [not json"], {"Cmd": ["/bin/sh", "-c", "[not json"]}),
        (['ENTRYPOINT ["/init"]', "CMD  x"], {"Entrypoint": ["/init"], "Cmd": ["/bin/sh", "-c", "x"]}),
        (["ENV A=1 B='two words' C=\"t$A\" D=a\\ b"], {"Env": ["A=1", "B=two words", "C=t", "D=a b"]}),
        (["ENV A=1", "ENV A=2 B='$A' C=$A"], {"Env": ["A=2", "B=$A", "C=1"]}),
        (["ENV PATH /bin:/usr/bin", "ENV PATH=$PATH:/x"], {"Env": ["PATH=/bin:/usr/bin:/x"]}),
        (["ENV A=", 'ENV B="${A:-none}" C=${B:+set} D=\\$B'], {"Env": ["A=", "B=none", "C=", "D=$B"]}),
        (["LABEL a=b c.d='e f'", 'LABEL "g h"=i'], {"Labels": {"a": "b", "c.d": "e f", "g h": "i"}}),
        (["LABEL key the rest"], {"Labels": {"key": "the rest"}}),
        (["WORKDIR srv", "ENV W=web", "WORKDIR $W/../x"], {"WorkingDir": "/srv/x", "Env": ["W=web"]}),
        (["USER 1000:1000"], {"User": "1000:1000"}),
        (["EXPOSE 80 443/TCP 53/udp"], {"ExposedPorts": {"80/tcp": {}, "443/tcp": {}, "53/udp": {}}}),
        (["EXPOSE 8", "EXPOSE 1-2"], {"ExposedPorts": {"8/tcp": {}, "1/tcp": {}, "2/tcp": {}}}),
        (["VOLUME /a /b", 'VOLUME ["/c d"]'], {"Volumes": {"/a": {}, "/b": {}, "/c d": {}}}),
        (["STOPSIGNAL SIGQUIT"], {"StopSignal": "SIGQUIT"}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (
            ["HEALTHCHECK --interval=1m30s --timeout=500ms --retries=2  --start-period=2.5s CMD curl -f x || exit 1"],
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl -f x || exit 1"],
                    "Interval": 90 * SECOND,
                    "Timeout": SECOND // 2,
                    "StartPeriod": SECOND * 5 // 2,
                    "Retries": 2,
                }
            },
        ),
        (['HEALTHCHECK CMD ["/check", "1"]'], {"Healthcheck": {"Test": ["CMD", "/check", "1"]}}),
        ([], {}),
    ],
)
def test_what_instructions_make(instructions: list[str], config: dict[str, Any]) -> None:
    assert apply(instructions) == config


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("RUN ls", r"invalid change 'RUN ls': it begins with one of CMD, ENTRYPOINT, ENV"),
        ("", "it begins with one of"),
        ("CMD", "CMD needs a value"),
        ("ENV A", "KEY=VALUE is needed"),
        ("ENV A=1 B", "'B' is not KEY=VALUE"),
        ("ENV A='x", "a ' is not closed"),
        ("LABEL =x", "'=x' is not KEY=VALUE"),
        ("EXPOSE http", "'http' is no port"),
        ("EXPOSE 70000", "'70000' is no port"),
        ("EXPOSE 2-1", "'2-1' is no port"),
        ("STOPSIGNAL SIGNONE", "unknown signal 'SIGNONE'"),
        ("VOLUME ''", "a volume needs a path"),
        ("HEALTHCHECK curl", "allowed are NONE, and"),
        ("HEALTHCHECK CMD", "allowed are NONE, and"),
        ("HEALTHCHECK --retries=1 NONE", "allowed are NONE, and"),
        ("HEALTHCHECK --every=1s CMD x", "unknown option --every: one of --interval"),
        ("HEALTHCHECK --timeout=5 CMD x", "--timeout is a time such as 30s or 1m30s, not '5'"),
        ("HEALTHCHECK --retries=few CMD x", "--retries is a number, not 'few'"),
    ],
)
def test_what_is_refused(instruction: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        apply([instruction])
