"""Security options as people write them."""

import pytest

from flota.v1.security_options import Security, security_options


@pytest.mark.parametrize(
    ("texts", "meant"),
    [
        ([], Security()),
        (["no-new-privileges"], Security(no_new_privileges=True)),
        (["no-new-privileges:true"], Security(no_new_privileges=True)),
        (["no-new-privileges=true", "no-new-privileges:false"], Security()),
        (["seccomp:unconfined"], Security(seccomp_unconfined=True)),
        (["seccomp=unconfined", "seccomp=builtin"], Security()),
        (["apparmor=unconfined", "label:disable"], Security()),
        (
            ["no-new-privileges:maybe", "seccomp=profile.json", "apparmor:mine", "x"],
            Security(unknown=("no-new-privileges:maybe", "seccomp=profile.json", "apparmor:mine", "x")),
        ),
    ],
)
def test_security_options(texts: list[str], meant: Security) -> None:
    assert security_options(texts) == meant
