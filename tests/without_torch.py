"""A pytest plugin for environments without torch: whatever imports it is skipped."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

import pytest


class _Skip(MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name in ("torch", "transformers", "tokenizers", "huggingface_hub"):
            pytest.skip(f"needs {name}", allow_module_level=True)


sys.meta_path.insert(0, _Skip())
