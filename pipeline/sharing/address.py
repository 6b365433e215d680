"""How heads on a hub are named: ``hub:user/name``, or ``hub:user/name@revision``.

address = HubAddress.parse("hub:alice/moods@4f1d…")     # 40 digits: always the same files
address.repository, address.revision
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import ConfigError

SCHEME = "hub:"
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_REPOSITORY = re.compile(rf"({_PART})/({_PART})")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub(name: object) -> bool:
    """Whether a name, or a path as it was given, is meant as one on a hub."""
    return str(name).startswith(SCHEME)


@dataclass(frozen=True)
class HubAddress:
    """A model repository, at a revision or wherever its main branch is.

    Attributes:
        repository: ``user/name``.
        revision: a commit, branch or tag; None: the main branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Read a name.

        Raises:
            ConfigError: not of this form.
        """
        said, _, revision = text.removeprefix(SCHEME).partition("@")
        named = _REPOSITORY.fullmatch(said)
        odd = named is None or "--" in said or ".." in said or said.endswith(".git")
        if not text.startswith(SCHEME) or odd or len(said) > 96:
            raise ConfigError(
                f"{text!r}: no name on a hub; write hub:user/name, or hub:user/name@revision, of"
                " letters, digits and . _ -"
            )
        if "@" not in text:
            return cls(said)
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise ConfigError(
                f"{text!r}: no revision behind the @; give the 40-digit commit of the page's Files"
                " and versions, a branch or a tag"
            )
        return cls(said, revision)

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubAddress:
        """The same at a commit."""
        return HubAddress(self.repository, commit)

    def __str__(self) -> str:
        """As it is given to commands."""
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")
