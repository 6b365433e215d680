"""Add layers or hidden states to all samples of a store, with the model that made it.

    report = add_layers("runs/mood/activations", hidden="all")      # again = resume

The texts come from the store, the model and its settings from what the store says of its origin.
New layers are seen once all samples have them: one commit publishes them. Texts that are appended
afterwards bring them too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.backbone import engine_of, load_from_settings
from pipeline.errors import ConfigError, ExtractInputError
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.recorded import recorded_backbone
from pipeline.extraction.routed import RoutedLayers
from pipeline.extraction.storing import check_disk, extract_blocks
from pipeline.progress import Say, silent
from store import ActivationStore, Block, StoreSchema, disk
from store.commits import backfilled_schema, check_texts


@dataclass(frozen=True)
class AddReport:
    """What was added to a store.

    Attributes:
        layers: array -> the layers that it has gained; empty if it had them all.
        num_texts: texts computed now; those that an interrupted run had finished are left out.
        elapsed_s: seconds, loading the model included.
        snapshot_id: the commit.
    """

    layers: Mapping[str, tuple[int, ...]]
    num_texts: int
    elapsed_s: float
    snapshot_id: str

    def __str__(self) -> str:
        if not self.layers:
            return f"nothing to add: the store holds all of it (snapshot {self.snapshot_id})"
        gained = "; ".join(
            f"{name}: layers {', '.join(map(str, layers))}" for name, layers in self.layers.items()
        )
        return (
            f"added {gained}\n{self.num_texts:,} texts computed in {self.elapsed_s:.1f} s,"
            f" snapshot {self.snapshot_id}"
        )


def add_layers(
    store_path: str | Path,
    *,
    layers: str = "",
    hidden: str = "",
    model: str | None = None,
    device: str = "cpu",
    say: Say = silent,
) -> AddReport:
    """Compute layers that a store lacks, for all samples that it holds; run again to resume.

    Args:
        store_path: the store's folder.
        layers: FFN layers, "all" or numbers with commas between them; those stored are left out.
        hidden: hidden states: "all", "final" or numbers as in Hugging Face's ``hidden_states``.
        model: the backbone's location, if it moved.
        device: torch device.
        say: called with progress.

    Raises:
        ConfigError: no such layer.
        ExtractError, StoreError: another model, a store without texts, a disk too small.
    """
    begin = time.perf_counter()
    store = ActivationStore.open(store_path)
    if not disk.is_url(store_path):
        store.writable_root()
    schema = store.schema
    last = schema.num_layers

    def asked(blocks: Sequence[int], states: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The FFN layers and hidden states, of those that there are."""
        return (
            _numbers("layers", layers, {"all": blocks}, blocks),
            _numbers("hidden", hidden, {"all": states, "final": (last,)}, states),
        )

    def held(ffn: Sequence[int], hidden_layers: Sequence[int]) -> bool:
        return set(ffn) <= set(schema.layers or ()) and set(hidden_layers) <= set(
            schema.hidden_layers
        )

    if held(*asked(range(last), range(last + 1))):
        return AddReport({}, 0, time.perf_counter() - begin, store.snapshot_id)
    check_texts(schema)
    extractor = _extractor(store_path, schema, model=model, device=device)
    backbone = extractor.backbone
    say(f"backbone: {backbone.model_type}, {backbone.num_layers} blocks")
    # Not each block has an FFN, nor each hidden state one vector for each token.
    ffn, hidden_layers = asked(backbone.ffn_layers, backbone.readable_states)
    if held(ffn, hidden_layers):
        return AddReport({}, 0, time.perf_counter() - begin, store.snapshot_id)
    plan = store.plan_backfill(
        layers=ffn, hidden_layers=hidden_layers, hidden_size=backbone.hidden_size
    )

    def find_texts(block: Block) -> list[str]:
        return list(plan.samples(block)["text"].to_pylist())

    try:
        added = backfilled_schema(store.schema, plan).bytes_per_sample
        added -= store.schema.bytes_per_sample
        check_disk(store_path, sum(len(block) for block in plan.blocks) * added)
        extract_blocks(
            extractor,
            store,
            plan,
            find_texts,
            bytes_per_text=added,
            what="added to",
        )
        snapshot = store.commit()
    finally:
        store.release()  # whatever happened: others may append, and a rerun resumes
    return AddReport(
        plan.record.layers, extractor.meter.num_texts, time.perf_counter() - begin, snapshot
    )


def _numbers(
    option: str, words: str, names: Mapping[str, Sequence[int]], valid: Sequence[int]
) -> tuple[int, ...]:
    """The layers that an option names, without repeats."""
    if not words or ((named := names.get(words)) and set(named) <= set(valid)):
        return tuple(names.get(words, ()))
    try:
        numbers = tuple(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError:
        numbers = (-1,)
    if not set(numbers) <= set(valid):
        if not valid:
            raise ConfigError(f"--{option} {words!r}: this model has none that can be read")
        every = list(valid) == list(range(len(valid)))
        which = f"from 0 to {valid[-1]}" if every else f"out of {', '.join(map(str, valid))}"
        raise ConfigError(
            f"--{option} {words!r}: valid are {', '.join(names)}, and numbers {which} with commas"
            " between them"
        )
    return numbers


def _extractor(
    path: str | Path, schema: StoreSchema, *, model: str | None, device: str
) -> Extractor:
    """What the store was filled with.

    Raises:
        ExtractError: the store does not say, or the model is another one now.
    """
    settings = recorded_backbone(schema.provenance, asked_by=path, model=model)
    made = schema.provenance.get("extraction") or {}
    extractor = Extractor(
        load_from_settings(
            settings, device=device, model=model, made_with=engine_of(schema.provenance)
        ),
        poolings=schema.poolings,
        special_tokens=settings.special_tokens,
        hidden="none",
        peaks=schema.peaks,
        routed=RoutedLayers.recorded(schema.provenance),
    )
    if extractor.compared(schema.fingerprint, normalisation=made.get("normalisation")) is None:
        raise ExtractInputError(
            f"{path}: was made with another model than {extractor.backbone.source} is now, so its"
            " layers would not fit the others; give --model with the one that it was made with"
        )
    return extractor
