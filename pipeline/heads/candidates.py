"""All heads of a task that are tried, and what they are compared with.

Linear heads on all features come first, for every depth: they are quick. Salient sets and the
paper's network are tried at the depth that would be chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.heads.choice import Candidate, Judge, Rule, best_of, choose, why_chosen
from pipeline.heads.frozen import FrozenHeads
from pipeline.heads.joint import Joint, JointFit, Sets
from pipeline.heads.model import Edges, Part
from pipeline.heads.salient import joint_sets
from pipeline.heads.sparse import fit_chosen
from pipeline.heads.stack import stacked
from pipeline.linear import Standardiser
from store.layout import Source, ffn

Array = NDArray[Any]
FEW_ROWS = 1000
"""Below, salient heads are judged on every assignment to folds: it costs little then."""
DRAWS, ONE_DRAW = 3, 2048
"""Random sets of features that each sparse head is held against; of more than so many features one
is as good as another."""
ALL = "all"
"""Selection of heads that read every feature of their sources."""


@dataclass
class Candidates:
    """Trains the heads of one task.

    Attributes:
        joint: fits linear models over the task's rows.
        frozen: trains the paper's heads.
        judge: of all.
        sources: stored sources, and the n-grams where heads may read them.
        num_layers: of the model.
        deepest: last block that heads may need.
        config: kinds and sizes.
        seed: of the random features.
    """

    joint: Joint
    frozen: FrozenHeads
    judge: Judge
    sources: Sequence[Source]
    num_layers: int
    deepest: int
    config: HeadConfig
    seed: int

    def __post_init__(self) -> None:
        self.final = Source("hidden", self.num_layers)
        # Blocks that bring nothing are no depths; the embeddings alone are the first block's.
        stored = [source for source in self.sources if source.array is not None]
        depths = sorted({max(source.depth, 0) for source in stored}, reverse=True)
        models = {f"dense {depth}": self.within(depth) for depth in depths}
        models["final"] = [self.final]
        models |= {f"only {s.site}": [s] for s in self.joint.features.others}
        self.fits = self.joint.fit(models)
        self.dense = {d: self._linear("dense", self.fits[f"dense {d}"]) for d in depths}
        self.conventional = self._linear("final", self.fits["final"])
        self._states: dict[int, Candidate] = {}
        self._random: dict[tuple[int, float | None], list[tuple[Candidate, float]]] = {}

    def within(self, depth: int) -> list[Source]:
        """Sources that blocks ``0..depth`` give."""
        return [source for source in self.sources if source.depth <= depth]

    # -- heads ---------------------------------------------------------------------------------

    def heads(self) -> Iterator[Candidate]:
        """Every head within the depth allowed, one of each kind, depth and size."""
        found = list(self._all_features())
        yield from found
        for depth in self._worth_trying(found):
            yield from self._at(depth, [head for head in found if head.depth == depth])

    def _at(self, depth: int, found: Sequence[Candidate]) -> list[Candidate]:
        """Heads of the slower kinds on blocks ``0..depth``, and what they make with those found."""
        kinds, sizes, made = self._kinds(), self.config.sizes, list[Candidate]()
        if "states" in kinds and (states := self._of_states(depth)) is not None:
            made.append(states)
        calls: list[Callable[[], Candidate | None]] = []
        if "sparse" in kinds:
            importance = self.joint.importance(self.within(depth))
            importance = importance[: 1 + num_judging_folds(self.joint)]
            calls += [partial(self._sparse, depth, size, importance) for size in sizes]
        if "frozen" in kinds:
            calls += [partial(self.frozen.candidate, depth, size) for size in sizes]
        tried = self.joint.threads.ordered(lambda call: call(), calls)
        made += [self._levelled(head) for head in tried if head is not None]
        here = [*found, *made]
        best = {kind: best_of(here, kind=kind) for kind in dict.fromkeys(h.kind for h in here)}
        if "ensemble" in kinds and {"frozen", "sparse"} <= set(best):
            both = self.judge.mean_of(best["frozen"], best["sparse"])
            made.append(self.judge.levelled(both, self.dense[depth]))
        if "stack" in kinds and len(best) > 1:
            folds = self.joint.rows.folds[0][self.joint.judged]
            stack = stacked(self.judge, folds, list(best.values()))
            made.append(self.judge.levelled(stack, self.dense[depth]))
        return made

    def _kinds(self) -> tuple[str, ...]:
        """Those that are tried: the network of the paper's heads is for one class or value."""
        if not self.judge.problem.multilabel:
            return self.config.kinds
        return tuple(kind for kind in self.config.kinds if kind not in ("frozen", "ensemble"))

    def _all_features(self) -> Iterator[Candidate]:
        if "dense" in self.config.kinds:
            yield from (self.dense[depth] for depth in self._depths)
        if "final" in self.config.kinds and self.conventional.depth <= self.deepest:
            yield self.conventional

    @property
    def _depths(self) -> list[int]:
        """Those allowed, ascending."""
        return [depth for depth in sorted(self.dense) if depth <= self.deepest]

    def _worth_trying(self, found: Sequence[Candidate]) -> list[int]:
        """Depths at which the slower kinds are tried: the one that would be chosen without them."""
        if "dense" not in self.config.kinds:
            return self._depths
        return [self.choose(found).depth]

    def choose(self, heads: Sequence[Candidate]) -> Candidate:
        """The best head, or a smaller one that is surely about as good."""
        return choose(
            heads,
            self.judge.groups,
            standard_errors=self.config.standard_errors,
            constant_loss=float(self.judge.constant_losses.mean()),
        )

    def why(self, chosen: Candidate, heads: Sequence[Candidate]) -> str:
        """Why this one was chosen, in a sentence."""
        losses = float(self.judge.constant_losses.mean())
        rule = Rule(self.judge.groups, losses, self.config.standard_errors)
        loss = "squared error" if self.judge.problem.num_classes is None else "log loss"
        return why_chosen(chosen, heads, rule, num_layers=self.num_layers, loss=loss)

    def _of_states(self, depth: int) -> Candidate | None:
        """The head on the hidden states of blocks ``0..depth``; None if none is stored."""
        states = [source for source in self.within(depth) if source.site == "hidden"]
        if states and depth not in self._states:
            fit = self.joint.fit({"states": states})["states"]
            self._states[depth] = self._linear("states", fit)
        return self._states.get(depth)

    def _sparse(
        self, depth: int, size: float, importance: Sequence[dict[Source, Array]]
    ) -> Candidate | None:
        """The head on the salient features; None if they are too many."""
        chosen = [joint_sets(own, size, self.config) for own in importance]
        if sum(map(len, chosen[0].values())) > self.config.max_features:
            return None
        found = fit_chosen(self.joint, self.fits[f"dense {depth}"].shares, chosen)
        selection = f"{self.config.select} {size:g} of all sources by weight"
        return self._linear("sparse", found, chosen[0], selection=selection, size=size)

    def _linear(
        self,
        kind: str,
        fit: JointFit,
        sets: Sets | None = None,
        *,
        selection: str = ALL,
        size: float | None = None,
    ) -> Candidate:
        part = linear_part(self.joint, fit, sets or {})
        return self.judge.candidate(kind, (part,), fit.outputs, selection=selection, size=size)

    # -- what they are compared with -----------------------------------------------------------

    def baselines(self, chosen: Candidate, heads: Sequence[Candidate]) -> dict[str, Candidate]:
        """Name -> what the chosen head is compared with, each tuned by the same loss."""
        found = {"final": self.conventional}
        for name, kind in (("only unit", "final_unit"), ("only lexical", "lexical")):
            if name in self.fits:
                found[kind] = self._linear(kind, self.fits[name])
        if (states := self._of_states(chosen.depth)) is not None:
            found["hidden"] = states
        found["all"] = self.dense[chosen.depth]
        if (layer := ffn(chosen.depth)) in self.sources:
            found["layer"] = self._linear("layer", self.joint.fit({"layer": [layer]})["layer"])
        poolings = self.joint.features.store.schema.poolings
        calls: dict[str, Callable[[], Candidate]] = {}
        if "mean" in poolings and len(poolings) > 1:
            calls["final_mean"] = self._final_mean
        sparse = [c for c in heads if c.kind == "sparse" and c.depth <= chosen.depth]
        if sparse:
            calls["random"] = partial(self._as_many, min(sparse, key=lambda c: c.loss))
        made = self.joint.threads.ordered(lambda call: call(), calls.values())
        return found | dict(zip(calls, made, strict=True))

    def _final_mean(self) -> Candidate:
        """The mean of the final hidden state, without its maximum."""
        poolings = self.joint.features.store.schema.poolings
        width = self.joint.features.size(self.final) // len(poolings)
        start = poolings.index("mean") * width
        sets = {self.final: np.arange(start, start + width)}
        fit = fit_chosen(self.joint, self.fits["final"].shares, self._everywhere(sets))
        return self._linear("final_mean", fit, sets)

    def by_size(self, heads: Sequence[Candidate]) -> list[tuple[Candidate, list[Candidate]]]:
        """Each sparse head, those of the fewest features first, with some on as many random
        features of the same sources."""
        sparse = sorted(
            (head for head in heads if head.kind == "sparse"),
            key=lambda head: (head.depth, head.num_features),
        )
        calls = [
            partial(self._randoms, head, DRAWS if head.num_features <= ONE_DRAW else 1)
            for head in sparse
        ]
        made = self.joint.threads.ordered(lambda call: call(), calls)
        return list(zip(sparse, made, strict=True))

    def _as_many(self, like: Candidate) -> Candidate:
        return self._randoms(like, 1)[0]

    def _randoms(self, like: Candidate, number: int) -> list[Candidate]:
        """As many features of each source as a sparse head reads, but any: some draws, all with
        the penalty that is best for the first."""
        known = self._random.setdefault((like.depth, like.size), [])
        shares = self.fits[f"dense {like.depth}"].shares
        (part,) = like.parts
        for draw in range(len(known), number):
            drawn = np.random.default_rng([self.seed, draw] if draw else self.seed)
            sets = {
                e.source: np.sort(
                    drawn.choice(self.joint.features.size(e.source), len(e.features), replace=False)
                )
                for e in part.edges
            }
            scale = known[0][1] if known else None
            fit = fit_chosen(self.joint, shares, self._everywhere(sets), scale=scale)
            made = self._linear("random", fit, sets, selection="random", size=like.size)
            widest = max(shares, key=shares.__getitem__)
            known.append((self._levelled(made), fit.shares[widest] / shares[widest]))
        return [made for made, _ in known[:number]]

    def _everywhere(self, sets: Sets) -> list[Sets]:
        return [sets] * (1 + num_judging_folds(self.joint))

    def _levelled(self, own: Candidate) -> Candidate:
        """Frozen heads, and with many rows those on chosen features, are judged on the first
        assignment only."""
        if own.kind in ("sparse", "random") and len(self.joint.rows) < FEW_ROWS:
            return own
        return self.judge.levelled(own, self.dense[own.depth])


def num_judging_folds(joint: Joint) -> int:
    """Folds that judge heads on chosen features, over all assignments that do."""
    assignments = len(joint.rows.folds) if len(joint.rows) < FEW_ROWS else 1
    return assignments * joint.num_folds if joint.by_folds else 0


def linear_part(joint: Joint, fit: JointFit, sets: Sets) -> Part:
    """A fit as the part of a head; ``sets`` are the features of sources not read whole."""
    edges = []
    for source in sorted(fit.weights):
        weights = fit.weights[source]
        features = sets.get(source, np.arange(len(weights)))
        if source.array is None:
            ones = np.ones(len(features), np.float32)
            standardiser = Standardiser(0 * ones, ones, np.inf)
        else:
            standardiser = joint.features.standardisers[source].take(features)
        bias = np.zeros(weights.shape[1], np.float32)
        edges.append(Edges(source, features, standardiser, np.ascontiguousarray(weights.T), bias))
    last = edges[-1]
    edges[-1] = Edges(
        last.source, last.features, last.standardiser, last.weights, fit.bias.astype(np.float32)
    )
    return Part(tuple(edges))
