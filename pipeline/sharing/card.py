"""The model card of shared heads: the hub's metadata as YAML, and what people should know.

    text = model_card(heads, "alice/moods", Terms(licence="cc-by-4.0", data="from the demo"))

Names of classes and runs, and what a user says of licences, come from anybody's data: they are
escaped, so that they are words on the page and nothing else.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.heads import Head, all_features
from pipeline.progress import counted
from pipeline.sharing.packing import SharedHead, model_of
from store.layout import NGRAMS

COMPARED = {
    "final": "conventional head, on the final hidden state",
    "lexical": "TF-IDF and a linear model",
    "majority": "majority",
}
"""Baselines on the card, in this order."""
LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
LONGEST = 200
"""Characters of any one name or note on the card; of a note about the data ten times as many."""
MOST_CLASSES = 200
_MARKS = set(string.punctuation) - set(",;%?'")
"""What Markdown or HTML may take for a sign, links without brackets included."""


@dataclass(frozen=True)
class Terms:
    """What a user says of the terms.

    Attributes:
        licence: of the heads: an identifier of the hub's, such as ``apache-2.0``, or a sentence.
        data: whose the training texts are, and under which terms.
    """

    licence: str | None = None
    data: str | None = None


def escaped(text: str, longest: int = LONGEST) -> str:
    """Any text as plain words of one line of Markdown, cut to so many characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return "".join(f"\\{c}" if c in _MARKS else c for c in line)


def model_card(heads: Sequence[SharedHead], repository: str, terms: Terms) -> str:
    """The text of ``README.md``."""
    own = [one.head.card.licence for one in heads if one.head.card.licence]
    licence = terms.licence or (own[0] if own else None)
    parts = [
        _metadata(heads, licence),
        f"# {escaped(repository)}\n",
        _opening(heads),
        *(_about(one) for one in heads),
        _backbone(heads[0].head),
        _use(heads, repository),
        _limits(heads, terms, licence),
    ]
    return "\n".join(parts)


def _metadata(heads: Sequence[SharedHead], licence: str | None) -> str:
    """The hub's metadata; every value is JSON, which is YAML too."""
    cards = [one.head.card for one in heads]
    place, revision = model_of(cards[0].extraction)
    data: dict[str, Any] = {"library_name": "salient"}
    if licence:
        data["license"] = licence if LICENCE_ID.fullmatch(licence) else "other"
    if revision is not None:
        data["base_model"] = place
    data["pipeline_tag"] = "text-classification"  # of values, too: the hub knows nothing nearer
    data["tags"] = ["salient", "interpretability", "feed-forward-neurons"]
    data["metrics"] = sorted({card.metric for card in cards})
    return "\n".join(["---", *(f"{key}: {json.dumps(one)}" for key, one in data.items()), "---\n"])


def _opening(heads: Sequence[SharedHead]) -> str:
    few = counted(len(heads), "head")
    return (
        f"{few} for Salient (the Python package `salient-neurons`): what a frozen language model's"
        " neurons and hidden states say of a text, in JSON and safetensors. The model itself is not"
        " in here, nor any code.\n"
    )


def _about(one: SharedHead) -> str:
    head, card = one.head, one.head.card
    lines = [f"## {escaped(card.task)}\n", _predicts(head), ""]
    lines += [*_results(one), "", f"- {_depth(head)}", f"- {_reads(head)}"]
    selection = escaped(f"{card.kind}, features: {card.selection}")
    lines.append(f"- Kind of head: {selection}.")
    trained = card.provenance.get("num_train")
    if isinstance(trained, int):
        others = card.provenance.get("num_val")
        beside = f" and {others:,} for validation" if isinstance(others, int) else ""
        lines.append(f"- Made from {trained:,} labelled texts{beside}.")
    lines.append(f"- Fingerprint of the head: `{head.fingerprint}`.")
    return "\n".join(lines) + "\n"


def _predicts(head: Head) -> str:
    card = head.card
    if card.type == "regression":
        return "Predicts a value."
    names = [escaped(name) for name in card.classes[:MOST_CLASSES]]
    more = (
        f" and {len(card.classes) - MOST_CLASSES:,} more" if len(names) < len(card.classes) else ""
    )
    what = "any of the labels" if head.multilabel else "one of the classes"
    return f"Predicts {what}: {', '.join(names)}{more}."


def _results(one: SharedHead) -> Iterator[str]:
    """A table of test metrics where the run has read its test split, else what is known."""
    card, entry = one.head.card, one.results
    if entry is None or not entry["chosen"]["test"]:
        yield (
            f"Validation {escaped(card.metric)}: {card.val_score:.3f}. No test metrics are known of"
            " this head."
        )
        return
    metric = entry["metric"]
    yield f"{escaped(metric)} on {entry['num_test']:,} test rows, with 95 % bootstrap intervals:\n"
    yield "| model | " + escaped(metric) + " | this head better by |"
    yield "|---|---|---|"
    yield f"| **this head** | {_measured(entry['chosen'], metric)} | |"
    baselines = entry.get("baselines") or {"final": entry["hidden"]}
    for name, said in COMPARED.items():
        if found := baselines.get(name):
            yield f"| {said} | {_measured(found, metric)} | {_gain(found.get('gain'))} |"
    others = entry["chosen"]["test"]
    rest = [name for name in others if name != metric and others[name] is not None]
    if rest:
        said = ", ".join(f"{escaped(name)} {_measured(entry['chosen'], name)}" for name in rest)
        yield f"\nThe same head's other metrics: {said}."
    if note := entry["chosen"].get("note"):
        yield f"\nNote: {escaped(str(note))}."


def _measured(entry: Mapping[str, Any], metric: str) -> str:
    value = entry["test"].get(metric)
    span = (entry.get("test_interval") or {}).get(metric)
    if value is None:
        return "not defined"
    return f"{value:.3f}" + (f" ({span[0]:.3f} to {span[1]:.3f})" if span else "")


def _gain(gain: Mapping[str, Any] | None) -> str:
    if not gain or gain.get("value") is None:
        return ""
    low, high = gain.get("low"), gain.get("high")
    span = f" ({low:+.3f} to {high:+.3f})" if low is not None and high is not None else ""
    return f"{gain['value']:+.3f}{span}"


def _depth(head: Head) -> str:
    card = head.card
    if not all_features([head]):
        return f"Runs none of the model's {card.num_layers} blocks."
    return f"Runs {card.depth + 1} of {card.num_layers} blocks of the model."


def _reads(head: Head) -> str:
    card, parts = head.card, []
    size = card.extraction.get("extraction", {}).get("neuron_size")
    ffn = {source: own for source, own in head.features.items() if source.site == "ffn"}
    if ffn and isinstance(size, int) and size > 0:
        neurons = sum(len(np.unique(own % size)) for own in ffn.values())
        parts.append(f"{counted(neurons, 'neuron')} of {counted(len(ffn), 'block')}")
    rest = [source for source in head.features if source.site != "ffn" and source != NGRAMS]
    if rest:
        parts.append(f"{counted(len(rest), 'other layer')} (hidden states, routers or experts)")
    if head.lexicon is not None:
        parts.append(f"n-grams of a vocabulary of {len(head.lexicon.terms):,}")
    pooled = ", ".join(escaped(name) for name in card.poolings)
    inside = f": {', '.join(parts)}" if parts else ""
    return f"Reads {counted(card.num_features, 'feature')}{inside}; pooled by {pooled}."


def _backbone(head: Head) -> str:
    card = head.card
    made = card.extraction.get("extraction", {})
    place, revision = model_of(card.extraction)
    lines = ["## Backbone\n"]
    if revision is not None:
        lines.append(f"- {escaped(place)} of the hub, revision `{revision}`; fetched when needed.")
    elif place.startswith("package:"):
        lines.append(f"- {escaped(place)}, an installed Python package.")
    else:
        lines.append(
            f"- A model folder called {escaped(place[2:])}, which is not part of this repository:"
            " give your copy with `--model`."
        )
    lines.append(f"- Type: {escaped(str(made.get('model_type', 'unknown')))}.")
    if isinstance(made.get("fingerprint"), str):
        lines.append(f"- Fingerprint of weights and tokenizer: {escaped(made['fingerprint'])}.")
    lines.append(f"- Fingerprint of the extraction: {escaped(card.extraction_fingerprint)}.")
    if card.extraction["backbone"].get("trust_remote_code"):
        lines.append(
            "- It has Python code of its own: whoever uses these heads must trust that code and"
            " give `--trust-remote-code`."
        )
    lines.append(
        "\nAnother model, revision, tokenizer or precision is refused: before the first text,"
        " made-up golden texts are computed and compared with what is recorded here."
    )
    return "\n".join(lines) + "\n"


def _use(heads: Sequence[SharedHead], repository: str) -> str:
    task = heads[0].head.card.task
    return f"""## Use

```python
import salient

scorer = salient.load("hub:{repository}")
scorer.predict(["what a day"])
```

or `salient score tweets.csv --heads hub:{repository} --task {task} --out scores`. For work that is
done again and again name the commit, `hub:{repository}@COMMIT`: a branch may change under you.
"""


def _limits(heads: Sequence[SharedHead], terms: Terms, licence: str | None) -> str:
    lines = ["## Terms and limits\n"]
    said = escaped(licence) if licence else "none was named; ask before you pass them on"
    lines.append(f"- Licence of the heads: {said}. The backbone has its own.")
    note = escaped(terms.data, 10 * LONGEST) if terms.data else "nothing was said"
    lines.append(f"- Training data and their terms: {note}")
    lines += [
        "- The figures are of rows from the same source as the training rows. Other domains,"
        " languages, platforms and times will do worse, and nothing here says by how much: measure"
        " on your own labelled texts.",
        "- Labels are as good as whoever gave them, and what they get wrong the head learns too.",
        "- Near-duplicates across a train and test split make figures too good; splits that Salient"
        " drew keep them together, splits that were given it takes as they are.",
        "- `reference.safetensors` holds deciles of outputs and activations, against which `salient"
        " score` warns of drift.",
        "- No training text is in here.",
    ]
    if words := sum(one.num_words for one in heads):
        lines[-1] = (
            f"- No whole training text is in here, but {words:,} words and pieces of words of them"
            " (`lexicon.json`), in no order: names may be among them."
        )
    return "\n".join(lines) + "\n"
