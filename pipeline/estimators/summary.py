"""What a fit found, as tables: what was tried, what the choice is compared with, which neurons.

summary = Summary.read(folder, task)
summary.compared          # a row for the chosen head, and for each baseline
summary.candidates        # a row for each head tried
salient_neurons(head, widths)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.heads import BASELINE, Head, head_importance
from pipeline.measures import doubt_of_rows
from pipeline.progress import counted
from pipeline.runfolder import RunFolder, read_sweep
from store.layout import NGRAMS, Source

Array = NDArray[Any]
MEANINGS = {
    "final": "final hidden state, mean and max",
    "final_mean": "final hidden state, mean",
    "final_unit": "final hidden state, mean at length 1",
    "hidden": "all hidden states of the same blocks",
    "all": "all features of the same blocks",
    "layer": "all neurons of its last block",
    "random": "as many features as the best sparse head, any",
    "lexical": "word and character n-grams",
}
"""Baseline -> what it reads."""


@dataclass(frozen=True, repr=False)
class Summary:
    """What a fit tried and chose; all figures are of rows held out.

    Attributes:
        metric: of ``score``.
        judged_on: "cross_validation", or "validation" where ``head.judge`` says so.
        num_rows: that judged.
        num_layers: blocks of the model.
        compared: ``head, kind, blocks, features, loss, score, low, high, reads``: the chosen head
            first, then what it is compared with, each tuned alike; ``constant`` knows no text.
            ``low`` to ``high`` is the score's 95 % bootstrap interval; none of fewer than 20 rows.
        candidates: ``kind, depth, size, num_features, loss, score, low, high``: every head tried,
            with its 95 % bootstrap interval of the score.
    """

    metric: str
    judged_on: str
    num_rows: int
    num_layers: int
    compared: pd.DataFrame
    candidates: pd.DataFrame

    @classmethod
    def read(cls, folder: RunFolder, task: str) -> Summary:
        """From the run folder of a fit.

        Raises:
            SalientError: it is not complete.
        """
        heads = folder.head(task).parent
        chosen = Head.load(folder.head(task)).card
        rows = [_row("chosen", chosen)]
        for path in sorted(heads.glob(f"{BASELINE}*")):
            rows.append(_row(path.name.removeprefix(BASELINE), Head.load(path).card))
        constant = chosen.metrics["choice"]["constant"]["loss"]
        rows.append({"head": "constant", "loss": constant, "reads": "nothing"})
        candidates = read_sweep(folder, task).drop_columns(["val_score"]).to_pandas()
        return cls(
            chosen.metric,
            chosen.metrics["judged_on"],
            chosen.metrics["num_judged"],
            chosen.num_layers,
            pd.DataFrame(rows),
            candidates.sort_values("loss", ignore_index=True),
        )

    @property
    def title(self) -> str:
        """One line: of what the figures are."""
        doubt = doubt_of_rows(self.num_rows)
        how = "out of fold" if self.judged_on == "cross_validation" else "on validation rows"
        return (
            f"{self.metric} and mean loss {how}, {counted(self.num_rows, 'row')};"
            f" {counted(len(self.candidates), 'head')} tried"
            + ("" if doubt is None else f" ({doubt})")
        )

    def __repr__(self) -> str:
        return f"{self.title}\n{self._shown().to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.title)}</p>" + self._shown().to_html(index=False, border=0)

    def _shown(self) -> pd.DataFrame:
        """What is compared, in text, empty where there is no figure."""
        forms = {"blocks": f"{{:.0f}}/{self.num_layers}", "features": "{:,.0f}"}
        out = pd.DataFrame(index=self.compared.index)
        for name, column in self.compared.drop(columns=["low", "high"]).items():
            form = forms.get(str(name), "{:.4f}")
            out[name] = [
                "" if pd.isna(one) else one if isinstance(one, str) else form.format(one)
                for one in column
            ]
        return out


def _row(name: str, card: Any) -> dict[str, Any]:
    low, high = card.metrics["score_interval"] or (None, None)
    return {
        "head": name,
        "kind": card.kind,
        "blocks": 0 if card.kind == "lexical" else card.depth + 1,
        "features": card.num_features,
        "loss": card.metrics["loss"],
        "score": card.metrics["score"],
        "low": low,
        "high": high,
        "reads": MEANINGS.get(name, ""),
    }


def salient_neurons(head: Head, widths: Mapping[str, int]) -> pd.DataFrame:
    """The neurons and units that a head reads, those of the largest weight first.

    Args:
        head: the head.
        widths: site -> neurons of a layer.

    Returns:
        ``site, layer, pooling, neuron, importance``, a row for each feature that is read.
        Importance is the norm of its weights on standardised activations, relative to the largest.
    """
    tables = []
    for source, importance in head_importance(head).items():
        pooling, neuron = np.divmod(head.features[source], widths[source.site])
        tables.append(
            pd.DataFrame(
                {
                    "site": source.site,
                    "layer": source.layer,
                    "pooling": np.asarray(head.card.poolings)[pooling],
                    "neuron": neuron,
                    "importance": importance,
                }
            )
        )
    if not tables:  # a head on n-grams alone
        return pd.DataFrame(columns=["site", "layer", "pooling", "neuron", "importance"])
    order = ["importance", "site", "layer", "pooling", "neuron"]
    table = pd.concat(tables).sort_values(order, ascending=[False, *[True] * 4])
    return table.reset_index(drop=True)


def feature_names(head: Head, widths: Mapping[str, int]) -> list[str]:
    """Names ``layer_003_max_517`` of the features that a head reads of the model, in order."""
    names = []
    for source, features in model_features(head).items():
        for pooling, neuron in zip(*np.divmod(features, widths[source.site]), strict=True):
            names.append(f"{source.name}_{head.card.poolings[pooling]}_{neuron}")
    return names


def model_features(head: Head) -> dict[Source, Array]:
    """Source -> ``(k,)`` features that a head reads of the model; n-grams are none."""
    return {source: own for source, own in head.features.items() if source != NGRAMS}
