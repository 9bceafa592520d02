"""What a person calls an artifact, from its manifest and those of its parents."""

from collections.abc import Iterable
from pathlib import Path

from storage.artifact import Artifact, read_manifest

CHAMPION = "champion"  # a policy's name in commands and forms: whoever is champion now


def name_artifact(artifact: Artifact) -> str:
    """What a person calls it: completions by policy and evaluation set, games by these and their judge; empty without a name."""
    return Names(artifact.path.parent.parent).of(artifact)


class Names:
    """What a person calls each artifact of a home; every manifest is read once."""

    def __init__(self, home: Path, known: Iterable[Artifact] = ()) -> None:
        """`known`: artifacts whose manifests were read already."""
        self._home = home
        self._known: dict[str, Artifact | None] = {f"{one.stage}/{one.fingerprint}": one for one in known}

    def artifact(self, name: str) -> Artifact | None:
        """The complete artifact "stage/fingerprint", or None."""
        if name not in self._known:
            manifest = read_manifest(self._home / name)
            self._known[name] = None if manifest is None else Artifact(self._home / name, manifest)
        return self._known[name]

    def of(self, artifact: Artifact) -> str:
        """Its name; empty without one."""
        if artifact.stage == "completions":
            return f"{self._parent(artifact, 'policy')} on {self._parent(artifact, 'prompts')}"
        if artifact.stage == "games":
            return f"{self._parent(artifact, 'completions')} by {artifact.info.get('judge')}"
        return str(artifact.info.get("name") or artifact.settings.get("name") or artifact.settings.get("domain") or "")

    def _parent(self, artifact: Artifact, role: str) -> str:
        parent = artifact.manifest["parents"].get(role)
        found = self.artifact(f"{parent['stage']}/{parent['fingerprint']}") if parent else None
        return self.of(found) if found else "?"
