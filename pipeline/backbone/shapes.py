"""Where a captured tensor has its texts, tokens and features: found once, by a batch of odd sizes.

Most models compute on (text, token, feature), some on (token, text, feature) or with texts end to
end; a few pad inside to a multiple of a window. ``recognise`` tells from the shape that a dry run
gave, ``slots`` brings what comes later into one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from typing import Literal

from torch import Tensor, nn

Axes = Literal["text, token", "token, text", "text x token"]
"""The order of the axes before the features'."""


def odd_sizes(network: nn.Module, max_length: int) -> tuple[int, int]:
    """Numbers of texts and of tokens each that differ, and that no width of the network equals."""
    widths = {size for values in network.parameters() for size in values.shape}
    tokens = [size for size in (11, 13, 17, 19, 23, 10, 9, 8, 7, 6, 5, 4) if size <= max_length]
    length = next((size for size in tokens if size not in widths), min(11, max_length))
    counts = chain((3, 5, 7, 2, 4), count(6))
    texts = next(size for size in counts if size not in widths - {4} and size != length)
    return texts, length


def recognise(shape: Sequence[int], *, texts: int, length: int) -> Axes | None:
    """The axes of a tensor from a dry run of equally long texts; None if they are others.

    Args:
        shape: of the tensor.
        texts: how many texts ran.
        length: tokens of each; neither number is a width of the model.
    """
    if shape[-1] == length:  # features before tokens
        return None
    if len(shape) == 3 and shape[0] == texts and shape[1] >= length:
        return "text, token"
    if len(shape) == 3 and shape[1] == texts and shape[0] >= length:
        return "token, text"
    if len(shape) == 2 and shape[0] >= texts * length and shape[0] % texts == 0:
        return "text x token"
    return None


def surplus(shape: Sequence[int], axes: Axes, *, texts: int, length: int) -> int:
    """Tokens of each text that a tensor has beyond those that ran."""
    tokens = {"text, token": shape[1], "token, text": shape[0], "text x token": shape[0] // texts}
    return tokens[axes] - length


def slots(tensor: Tensor, axes: Axes, *, texts: int, length: int) -> Tensor:
    """A captured tensor, row of the batch by row, without what the model padded it with.

    Args:
        tensor: (texts, tokens, feature) in the order that ``axes`` says.
        axes: from ``recognise``.
        texts: rows of the batch.
        length: token slots of each row; the tensor may have more.

    Returns:
        (texts * length, feature).

    Raises:
        ValueError: the tensor is not as the dry run's was.
    """
    if axes == "token, text":
        tensor = tensor.transpose(0, 1)
    elif axes == "text x token":
        tensor = tensor.reshape(texts, -1, tensor.shape[-1])
    if tensor.ndim != 3 or tensor.shape[0] != texts or tensor.shape[1] < length:
        raise ValueError(f"shape {tuple(tensor.shape)} for {texts} rows of {length} tokens")
    return tensor[:, :length].reshape(-1, tensor.shape[-1])
