"""Losses of many linear models and their gradients from one pass over a design.

All models that are asked for are evaluated together: one product ``W @ block`` and one
``block @ R.T`` per block serve every column of every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.linear.design import Design, Span
from pipeline.linear.products import times
from pipeline.linear.threads import BlockThreads

Array = NDArray[Any]
Kind = Literal["binary", "softmax", "squared"]


@dataclass(frozen=True)
class Loss:
    """What one model is fitted to, summed over rows, each times its weight.

    Binary and softmax cross-entropy, or half the squared error.

    Attributes:
        kind: the loss.
        num_outputs: columns of the model.
        target: ``(n,)`` float32: +1 and -1 (binary), class indices (softmax), values (squared).
        weight: ``(n,)`` float32, 0 leaves a row out.
        total: sum of the weights.
    """

    kind: Kind
    num_outputs: int
    target: Array
    weight: Array
    total: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", float(self.weight.sum(dtype=np.float64)))

    def curvature(self, theta: Array, rows: slice, block: Array) -> Array:
        """Second derivative at each row of a block, summed over the outputs: ``(rows,)``.

        Args:
            theta: ``(outputs, features + 1)``, the bias last.
            rows: of the block.
            block: ``(features, rows)`` float32.
        """
        weight = self.weight[rows]
        if self.kind == "squared":
            return weight
        z = torch.from_numpy(theta[:, :-1].astype(np.float32) @ block)
        z += torch.from_numpy(theta[:, -1:].astype(np.float32))
        p = torch.sigmoid(z) if self.kind == "binary" else torch.softmax(z, dim=0)
        return np.asarray((p * (1 - p)).sum(dim=0).numpy() * weight)


@dataclass
class _Group:
    """Losses of one kind and width, with shared targets and weights kept once."""

    members: list[int]
    target_rows: dict[int, int]
    weight_rows: dict[int, int]
    targets: torch.Tensor
    weights: torch.Tensor


class Losses:
    """Evaluates many losses over a design.

    Args:
        design: the rows.
        each: the losses, in the design's row order.
        threads: to run on.
    """

    def __init__(self, design: Design, each: Sequence[Loss], threads: BlockThreads) -> None:
        self.design = design
        self.each = each
        self.threads = threads
        self.num_passes = 0
        self._groups: dict[tuple[Kind, int], _Group] = {}
        keys = [(loss.kind, loss.num_outputs) for loss in each]
        for key in dict.fromkeys(keys):
            members = [i for i, other in enumerate(keys) if other == key]
            targets, target_rows = _distinct([each[i].target for i in members])
            weights, weight_rows = _distinct([each[i].weight for i in members])
            if key[0] == "softmax":
                targets = targets.long()
            self._groups[key] = _Group(
                members,
                dict(zip(members, target_rows, strict=True)),
                dict(zip(members, weight_rows, strict=True)),
                targets,
                weights,
            )

    def target_key(self, index: int) -> int:
        """Equal for losses with equal targets, such as the folds of one."""
        loss = self.each[index]
        group = self._groups[loss.kind, loss.num_outputs]
        return group.members[list(group.target_rows.values()).index(group.target_rows[index])]

    def evaluate(
        self, points: dict[int, Array], dtype: torch.dtype = torch.float32
    ) -> dict[int, tuple[float, Array]]:
        """Value and gradient of some losses, each at its own point, in one pass.

        Args:
            points: index of a loss -> ``(outputs, features + 1)`` float64, the bias last.
            dtype: of the products.

        Returns:
            Index of a loss -> its value and gradient ``(outputs, features + 1)`` float64.
        """
        self.num_passes += 1
        active: list[tuple[_Group, list[int], slice, Kind, int]] = []
        order: list[int] = []
        start = 0
        for (kind, width), group in self._groups.items():
            chosen = [i for i in group.members if i in points]
            if chosen:
                stop = start + width * len(chosen)
                active.append((group, chosen, slice(start, stop), kind, width))
                order += chosen
                start = stop
        stacked = torch.from_numpy(np.concatenate([points[i] for i in order])).to(dtype)
        weights = stacked[:, :-1].contiguous()
        bias = stacked[:, -1:]
        picks = [
            (
                torch.tensor([group.target_rows[i] for i in chosen]),
                torch.tensor([group.weight_rows[i] for i in chosen]),
            )
            for group, chosen, *_ in active
        ]

        def span_sums(span: Span) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            loss = torch.zeros(len(order), dtype=torch.float64)
            gradient = torch.zeros_like(weights)
            intercept = torch.zeros(len(stacked), dtype=torch.float64)
            for rows, values in span.blocks(self.threads.scratch):
                block = torch.from_numpy(values).to(dtype)
                z = times(weights, block).add_(bias)
                first = 0
                for (group, chosen, columns, kind, width), (which, whose) in zip(
                    active, picks, strict=True
                ):
                    target = group.targets[:, rows][which]
                    weight = group.weights[:, rows][whose].to(dtype)
                    loss[first : first + len(chosen)] += _residuals(
                        kind, width, z[columns], target, weight
                    )
                    first += len(chosen)
                gradient += times(z, block.t())
                intercept += z.sum(dim=1, dtype=torch.float64)
            return loss, gradient, intercept

        loss = torch.zeros(len(order), dtype=torch.float64)
        full = np.zeros((len(stacked), self.design.num_features + 1))
        for span_loss, gradient, intercept in self.threads.ordered(span_sums, self.design.spans()):
            loss += span_loss
            full[:, :-1] += gradient.numpy()
            full[:, -1] += intercept.numpy()
        out: dict[int, tuple[float, Array]] = {}
        at = 0
        for number, i in enumerate(order):
            width = self.each[i].num_outputs
            out[i] = float(loss[number]), full[at : at + width]
            at += width
        return out


def _residuals(
    kind: Kind, width: int, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Each loss on a block, float64; ``z`` becomes its derivative in place."""
    if kind == "binary":
        sign = target.to(z.dtype)
        margin = z * sign
        losses = functional.softplus(-margin).mul_(weight).sum(dim=1, dtype=torch.float64)
        torch.sigmoid(-margin, out=z)
        z.mul_(sign.mul_(weight)).neg_()
        return losses
    if kind == "squared":
        z.sub_(target)
        losses = (0.5 * z * z).mul_(weight).sum(dim=1, dtype=torch.float64)
        z.mul_(weight)
        return losses
    cube = z.view(len(target), width, -1)
    log_probability = torch.log_softmax(cube, dim=1)
    index = target[:, None, :]
    picked = log_probability.gather(1, index)[:, 0]
    losses = -(picked * weight).sum(dim=1, dtype=torch.float64)
    torch.exp(log_probability, out=cube)
    cube.scatter_add_(1, index, torch.full_like(index, -1, dtype=z.dtype))
    cube.mul_(weight[:, None, :])
    return losses


def _distinct(arrays: Sequence[Array]) -> tuple[torch.Tensor, list[int]]:
    """The distinct ones among ``(n,)`` float32 arrays, stacked, and where each is."""
    seen: dict[bytes | int, int] = {}
    kept: list[Array] = []
    rows = []
    for array in arrays:
        key = array.tobytes()
        if key not in seen:
            seen[key] = len(kept)
            kept.append(array)
        rows.append(seen[key])
    return torch.from_numpy(np.stack(kept).astype(np.float32)), rows
