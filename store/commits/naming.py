"""Names of manifests on a bucket: of what, for which plan, by which attempt.

    path = manifest_path(slot, count, plan_id, attempt)
    parse_manifest(path) == ManifestName(slot, count, plan_id, attempt)

A shard's name follows from its manifest's: see `ArrayLayout.shard_path`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from store.records import MANIFESTS

_MANIFEST = re.compile(
    rf"{re.escape(MANIFESTS)}/([0-9]{{8}})-([0-9]{{6,}})-([0-9a-f]{{12}})-([0-9a-f]{{8}})"
    r"\.safetensors",
    re.ASCII,
)


class ManifestName(NamedTuple):
    """What the name of a manifest says."""

    slot: int
    num_samples: int
    plan: str
    attempt: str


def manifest_path(slot: int, num_samples: int, plan: str, attempt: str) -> str:
    """Path of the manifest of a slot that holds so many samples."""
    return f"{MANIFESTS}/{slot:08d}-{num_samples:06d}-{plan}-{attempt}.safetensors"


def parse_manifest(path: str) -> ManifestName | None:
    """What the name of a manifest on a bucket says; None of others."""
    found = _MANIFEST.fullmatch(path)
    return ManifestName(int(found[1]), int(found[2]), found[3], found[4]) if found else None
