"""The Compose files of these tests, as projects: which files, with which variables and profiles."""

from dataclasses import dataclass, field
from pathlib import Path

from flota.stacks.compose.loading import Project, load, project_folder, read_source

FILES = Path(__file__).parent / "files"
GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    """One project."""

    name: str
    files: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()

    def load(self, with_variables: bool = True) -> Project:
        """Load it, as the command line would."""
        paths = [str(FILES / file) for file in self.files]
        return load(
            [read_source(path) for path in paths],
            project_folder(paths[0]),
            self.environment,
            name="shop",
            profiles=self.profiles,
            with_variables=with_variables,
        )


def _plain(*names: str) -> list[Case]:
    return [Case(name, (f"{name}.yml",)) for name in names]


CASES = [
    *_plain("voting", "traefik", "databases", "logging", "wordpress", "mesh", "jobs", "gpu", "everything-ignored"),
    *_plain("beyond", "networks", "anchors", "registry", "profiles", "extends", "base", "included"),
    *_plain("elastic", "kafka", "portainer", "django", "haproxy", "backup", "mastodon", "loki", "consul"),
    Case("gitea", ("gitea.yml",), {"DOMAIN": "git.example.com", "DB_PASSWORD": "x"}),
    Case("mastodon-search", ("mastodon.yml",), profiles=("search",)),
    Case("monitoring", ("monitoring.yml",), {"GRAFANA_PASSWORD": "x", "DOMAIN": "flota.invalid"}),
    Case("messaging", ("messaging.yml",), {"COOKIE": "monster"}),
    Case("nextcloud", ("nextcloud.json",)),
    Case("files-and-secrets", ("files-and-secrets.yml",), {"FROM_SHELL": "mine"}),
    Case("override", ("base.yml", "override.yml"), {"TAG": "7"}),
    Case("reset", ("base.yml", "override.yml", "reset.yml")),
    Case("profile-debug", ("profiles.yml",), profiles=("debug",)),
    Case("profile-all", ("profiles.yml",), {"COMPOSE_PROFILES": "debug,ci"}),
]
