"""Salient: learn from the FFN activations inside frozen language models."""
