"""Salient: learn from the FFN activations inside frozen language models."""

import os

# OpenMP threads that spin while they wait collapse as soon as anything else uses the cores; must be
# set before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
