"""Extract whole corpora into an activation store.

    report = extract_corpus(table, backbone, "tweets.store")      # again = resume

Work goes in blocks of one shard of samples. A block is restartable: until it is committed nobody
sees it, and running again computes only what is missing. Workers elsewhere do the same with
``extract_block``, given the store's path and the plan's id.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipeline.backbone import Backbone, Encoded, Engine, engine_of, load_from_settings
from pipeline.config import BackboneConfig, NormaliseConfig, RunConfig, StoreConfig
from pipeline.errors import ExtractBusy, ExtractInputError
from pipeline.events import BlockWritten, Tally, emit
from pipeline.extraction.extractor import STORED, Extractor, Pooled, Turned
from pipeline.extraction.footprint import Footprint, resident_bytes
from pipeline.extraction.golden import write_golden
from pipeline.extraction.lanes import ahead, threads
from pipeline.extraction.proving import proved
from pipeline.extraction.routed import RoutedLayers
from pipeline.extraction.throughput import ExtractReport, Meter, gemm_peak
from pipeline.progress import Say
from pipeline.runfolder import RunFolder
from store import ActivationStore, AppendPlan, Block, StoreError, StoreSchema, disk
from store.layout import MAX_FLOAT16_INTEGER

PEAK_FROM_SECONDS = 60.0
"""Only runs this long are worth the half second that measuring the GEMM peak takes."""
PROGRESS_SECONDS = 2.0
"""Least time between two events of progress, but for those at the end of a block."""

MAX_EXPERTS_WIDTH = 65_536
"""Numbers a layer and pooling up to which experts are stored."""


@dataclass(frozen=True)
class StoreOptions:
    """What a store is filled with; all that fill it must agree.

    Attributes:
        poolings, special_tokens, peaks: as in ``Extractor``.
        sites: what is stored of "ffn", "router" and "experts"; None: the FFN where the model has
            one, routers where it has them.
        experts: numbers of the experts that are kept; None: all, or what an old store keeps if
            the sites are None too.
        hidden: which hidden states; None: all in a new store, what it holds in an old one.
        only: site -> its layers that are stored, where these are not all that the others say.
        dtype: of the stored values.
        samples_per_shard: default about 50 MB a shard.
        store_text: False keeps hashes only.
        normalisation: how the texts were normalised; part of the fingerprint.
        provenance: any JSON to keep beside the numbers.
    """

    poolings: tuple[str, ...] = ("mean", "max")
    special_tokens: bool = True
    sites: tuple[str, ...] | None = None
    experts: tuple[int, ...] | None = None
    hidden: Literal["final", "all", "none"] | None = None
    only: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: Literal["float16", "float32"] = "float16"
    samples_per_shard: int | None = None
    store_text: bool = True
    peaks: bool = False
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig) -> StoreOptions:
        """What a run's configuration asks for."""
        return cls.of_sections(config.backbone, config.store, config.normalise)

    @classmethod
    def of_sections(
        cls, backbone: BackboneConfig, store: StoreConfig, normalise: NormaliseConfig
    ) -> StoreOptions:
        """What these sections of a configuration ask for."""
        normalisation = normalise.model_dump()
        hidden: Literal["final", "all"] | None = None
        if store.sites is not None:
            hidden = "all" if "hidden" in store.sites else "final"
        return cls(
            poolings=store.poolings,
            special_tokens=backbone.special_tokens,
            sites=store.sites,
            experts=store.experts,
            hidden=hidden,
            dtype=store.dtype,
            samples_per_shard=store.samples_per_shard,
            store_text=store.keep_text,
            peaks=store.peaks,
            normalisation=normalisation,
            provenance={"backbone": backbone.model_dump(), "normalise": normalisation},
        )

    def noting(self, backbone: BackboneConfig) -> StoreOptions:
        """The same with other settings of the backbone on record, as heads made of it find them."""
        return replace(self, provenance={**self.provenance, "backbone": backbone.model_dump()})

    def going_on(self, path: str | Path) -> StoreOptions:
        """The same with the experts that a store keeps, if there is one and nobody says which."""
        if self.sites is not None or self.experts is not None or not ActivationStore.exists(path):
            return self
        kept = ActivationStore.open(path).schema.provenance.get("extraction", {})
        return replace(self, experts=kept.get("kept_experts"))

    def extractor(self, backbone: Backbone) -> Extractor:
        """What computes the rows of such a store.

        Raises:
            BackboneError: the model lacks a site that is asked for.
        """
        default = ("ffn",) if backbone.mixture is None else ()
        backbone.check_sites(self.sites or default)
        wanted = self.sites or ("ffn", "router")
        layers = {
            site: self.only.get(site, backbone.site_layers(site)) if site in wanted else ()
            for site in ("ffn", "router", "experts")
        }
        keeps = backbone.site_layers("experts") if self.sites is None else layers["experts"]
        return Extractor(
            backbone,
            poolings=self.poolings,
            special_tokens=self.special_tokens,
            layers=layers["ffn"],
            hidden=self.only.get("hidden", self.hidden or "all"),
            peaks=self.peaks,
            routed=RoutedLayers(
                layers["router"], layers["experts"], self.experts if keeps else None
            ),
        )


DEFAULTS = StoreOptions()


def open_store(
    path: str | Path, extractor: Extractor, options: StoreOptions = DEFAULTS, *, num_texts: int
) -> ActivationStore:
    """Open the store that an extractor may append to, or create it.

    Args:
        path: the store's folder.
        extractor: what will fill it, made by the options.
        options: what is stored.
        num_texts: size of the corpus, to choose shards not larger than needed.

    Raises:
        ExtractError: the store was made with another model or other settings; peaks of texts
            longer than the element type can count.
    """
    max_length = extractor.backbone.max_length
    if options.peaks and options.dtype == "float16" and max_length > MAX_FLOAT16_INTEGER:
        raise ExtractInputError(
            f"{path}: float16 counts no further than {MAX_FLOAT16_INTEGER}, so it cannot hold peaks"
            f' in texts of up to {max_length} tokens; store them with dtype = "float32",'
            f" or set max_length to {MAX_FLOAT16_INTEGER} or less"
        )
    if not ActivationStore.exists(path):
        schema = schema_of(extractor, options, num_texts)
        _check_width(path, schema)
        try:
            return ActivationStore.create(path, schema)
        except StoreError:
            if not ActivationStore.exists(path):  # else another process was quicker: append to its
                raise
    store = ActivationStore.open(path)
    _check_same(path, store.schema, extractor, options)
    return store


def schema_of(extractor: Extractor, options: StoreOptions, num_texts: int) -> StoreSchema:
    """The schema of a new store that an extractor, made by the options, would fill."""
    backbone, mixture = extractor.backbone, extractor.backbone.mixture
    routed: dict[str, Any] = {}
    if mixture is not None and extractor.router_layers:
        routed = {"router_size": mixture.num_experts, "router_layers": extractor.router_layers}
    if mixture is not None and extractor.experts_layers:
        routed |= {
            "expert_size": mixture.expert_size,
            "experts": extractor.kept_experts or tuple(range(mixture.num_experts)),
            "experts_layers": extractor.experts_layers,
        }
    return StoreSchema(
        num_layers=backbone.num_layers,
        neuron_size=backbone.neuron_size,
        poolings=extractor.poolings,
        layers=extractor.layers,
        hidden_size=backbone.hidden_size if extractor.hidden_layers else None,
        hidden_layers=extractor.hidden_layers,
        dtype=options.dtype,
        samples_per_shard=options.samples_per_shard
        or StoreSchema.default_samples_per_shard(
            neuron_size=max(extractor.width(source.site) for source in extractor.sources),
            num_poolings=len(extractor.poolings),
            dtype=options.dtype,
            num_samples=num_texts,
        ),
        store_text=options.store_text,
        peaks=options.peaks,
        fingerprint=extractor.fingerprint(normalisation=options.normalisation),
        provenance={**options.provenance, "extraction": _description(extractor, options)},
        **routed,
    )


def _check_width(path: str | Path, schema: StoreSchema) -> None:
    """Refuse experts that make more features a layer and pooling than heads can read."""
    layout = schema.arrays.get("experts")
    if layout is not None and layout.width > MAX_EXPERTS_WIDTH:
        size, text = schema.expert_size or 1, schema.bytes_per_sample
        raise ExtractInputError(
            f"{path}: {len(schema.experts)} experts of {size:,} neurons are {layout.width:,}"
            f" numbers a layer and pooling, {text / 1e6:,.1f} MB a text over"
            f" {len(layout.layers)} layers; up to {MAX_EXPERTS_WIDTH:,} are stored: keep some"
            f" experts, up to {MAX_EXPERTS_WIDTH // size} of them, with experts = [0, 1, …] under"
            " [store], or leave 'experts' out of sites"
        )


def size_of_texts(options: StoreOptions, backbone: Backbone, num_texts: int) -> str:
    """What a store of so many texts takes, for people."""
    return describe_size(schema_of(options.extractor(backbone), options, num_texts), num_texts)


def describe_size(schema: StoreSchema, num_texts: int) -> str:
    """What texts take on disk, and a block of them in memory, for people."""
    block = min(schema.samples_per_shard, max(num_texts, 1)) * schema.bytes_per_sample
    sites = ", ".join(
        f"{name} {len(layout.layers)} x {layout.width:,}" for name, layout in schema.arrays.items()
    )
    return (
        f"storing {sites}: {num_texts * schema.bytes_per_sample / 1e9:,.2f} GB on disk for"
        f" {num_texts:,} texts, {2 * block / 1e9:,.2f} GB of memory at a time"
    )


def _description(extractor: Extractor, options: StoreOptions) -> dict[str, Any]:
    kept = extractor.kept_experts
    return {
        **extractor.backbone.describe(),
        "special_tokens": extractor.special_tokens,
        "normalisation": dict(options.normalisation),
        "kept_experts": None if kept is None else list(kept),
    }


def _check_same(
    path: str | Path, schema: StoreSchema, extractor: Extractor, options: StoreOptions
) -> None:
    """Refuse a store that was made with another model or other settings, naming the first."""
    asked: dict[str, Any] = {
        "poolings": extractor.poolings,
        "layers": _or_more(extractor.layers, schema.layers),
        "hidden states": schema.hidden_layers
        if options.hidden is None
        else _or_more(extractor.hidden_layers, schema.hidden_layers),
        "router": _or_more(extractor.router_layers, schema.router_layers),
        "experts": _or_more(extractor.experts_layers, schema.experts_layers),
        "dtype": options.dtype,
        "peaks": options.peaks,
    }
    if options.sites is None and not schema.layers:
        asked["layers"] = ()
    if options.sites is None:
        asked["router"] = schema.router_layers
    held: dict[str, Any] = {
        "poolings": schema.poolings,
        "layers": schema.layers,
        "hidden states": schema.hidden_layers,
        "router": schema.router_layers,
        "experts": schema.experts_layers,
        "dtype": schema.dtype,
        "peaks": schema.peaks,
    }
    if extractor.compared(schema.fingerprint, normalisation=options.normalisation) is None:
        before = schema.provenance.get("extraction", {})
        older = extractor.backbone.older_fingerprint
        if older is not None and before.get("fingerprint") == older():  # then it is something else
            before = {**before, "fingerprint": extractor.backbone.fingerprint}
        skipped = {"source", "engine", "device", "attention", "fingerprint_version"}
        for key, value in _description(extractor, options).items():
            if key not in skipped:
                asked[key], held[key] = value, before.get(key)
        if asked == held:  # a digest of something that an earlier version does not describe
            key = "digest of the extraction"
            asked[key] = extractor.fingerprint(normalisation=options.normalisation)[:16]
            held[key] = schema.fingerprint[:16]
    if different := [key for key in asked if asked[key] != held[key]]:
        key = different[0]
        name = {"fingerprint": "model (its fingerprint)", "kept_experts": "experts kept"}.get(
            key, key
        )
        remedy = "use the same settings, or another store path"
        if key in ("layers", "hidden states"):
            option = "--hidden all" if key == "hidden states" else "--layers all"
            remedy = f"`salient store add {path} {option}` brings what is missing; or {remedy}"
        raise ExtractInputError(
            f"{path}: made with other settings: its {name} is {held[key]!r}, this run's "
            f"{asked[key]!r}; {remedy}"
        )


def _or_more(asked: tuple[int, ...], held: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """What the store holds, if all that is asked for is in it: new texts bring the same."""
    return held if set(asked) <= set(held or ()) else asked


def extract_corpus(
    texts: pa.Table,
    backbone: Backbone,
    store_path: str | Path,
    options: StoreOptions = DEFAULTS,
    *,
    batch_tokens: int | None = None,
) -> ExtractReport:
    """Extract the texts that a store does not have yet; run again to resume.

    Tokenising, computing and writing overlap: while one block is computed, the next is
    tokenised and the previous one written. After every block, and in long ones every few seconds,
    an event says how far it is; each block that is written is one too.

    Args:
        texts: columns id and text, and what else ``ActivationStore.plan_append`` takes.
        backbone: the model.
        store_path: the store; made if it is not there.
        options: what is stored.
        batch_tokens: as in ``Extractor``.

    Raises:
        ExtractError: the store does not fit these settings, or the disk is too small.
    """
    begin = time.perf_counter()
    options = options.going_on(store_path)
    if missing := [name for name in ("id", "text") if name not in texts.column_names]:
        raise ExtractInputError(
            f"texts: no column {missing[0]!r}; found {texts.column_names}, needed are id and text"
        )
    extractor = options.extractor(backbone)
    extractor.batch_tokens = batch_tokens or extractor.batch_tokens
    store = open_store(store_path, extractor, options, num_texts=texts.num_rows)
    plan = store.plan_append(texts)
    todo = sum(len(block) for block in plan.blocks)
    check_disk(store_path, todo * store.schema.bytes_per_sample)
    find_texts = _text_finder(plan, texts if not store.schema.store_text else None)
    try:
        extract_blocks(
            extractor, store, plan, find_texts, bytes_per_text=store.schema.bytes_per_sample
        )
        snapshot = store.commit()
    finally:
        store.release()  # whatever happened: others may append, and a rerun resumes
    meter = extractor.meter
    elapsed = time.perf_counter() - begin
    peak = None
    if elapsed >= PEAK_FROM_SECONDS:
        peak = gemm_peak(dtype=backbone.dtype, device=backbone.device, engine=backbone.engine)
    return ExtractReport(
        num_new=meter.num_texts,
        num_known=plan.num_known,
        num_truncated=meter.num_truncated,
        num_tokens=meter.num_tokens,
        num_slots=meter.num_slots,
        elapsed_s=elapsed,
        stage_s=dict(meter.stage_s),
        flops=meter.flops,
        peak_flops_per_s=peak,
        snapshot_id=snapshot,
        engine=backbone.engine,
        estimated_bytes=meter.memory.estimated,
        peak_bytes=meter.memory.peak,
    )


def extract_blocks(
    extractor: Extractor,
    store: ActivationStore,
    plan: AppendPlan,
    find_texts: Callable[[Block], list[str]],
    *,
    bytes_per_text: int,
    what: str = "extracted",
) -> None:
    """Compute and write the blocks of a plan that are not finished; the caller commits.

    Args:
        extractor: the same settings as the store was opened with.
        store: the store.
        plan: from ``plan_append`` or ``plan_backfill``.
        find_texts: gives the texts of a block.
        bytes_per_text: of the activations that the plan brings.
        what: is done with texts, in events of progress.
    """
    _aim(extractor, plan)
    tally, done = Tally(what, sum(len(block) for block in plan.blocks), "texts"), 0
    dtype = STORED[store.schema.dtype]
    before, meter = resident_bytes(), extractor.meter

    def encode(block: Block) -> tuple[Block, Encoded]:
        return block, extractor.encode(find_texts(block))

    def ended(block: Block, begin: float, writing: Future[None]) -> None:
        writing.result()
        device = extractor.backbone.device
        memory = Footprint.now(before, len(block), bytes_per_text, device)
        meter.memory = memory.most(meter.memory)
        emit(
            BlockWritten(
                store=store.location.address,
                start=block.start,
                stop=block.stop,
                elapsed_s=time.perf_counter() - begin,
                estimated_bytes=memory.estimated,
                peak_bytes=memory.peak,
                gpu_bytes=memory.gpu,
            )
        )

    with threads(1, "write") as writer:
        writing: Callable[[], None] | None = None
        for block, encoded in ahead(plan.blocks, encode):
            begin = time.perf_counter()
            on_batch = _now_and_then(tally, done)
            pooled = extractor.compute(encoded, dtype=dtype, on_batch=on_batch)
            if writing is not None:
                writing()
            future = writer.submit(_write, store, plan, block, pooled, meter)
            writing = partial(ended, block, begin, future)
            done += len(block)
            tally(done)
        if writing is not None:
            writing()


def _now_and_then(tally: Tally, before: int) -> Callable[[int], None]:
    """Tell of the texts of a block as they are done, but not after every batch of milliseconds."""
    last = time.monotonic()

    def on_batch(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS and before + done < tally.total:
            last = time.monotonic()
            tally(before + done)

    return on_batch


def extract_block(
    extractor: Extractor,
    store: ActivationStore,
    plan: AppendPlan,
    block: Block,
    *,
    texts: pa.Table | None = None,
    on_computed: Callable[[], None] = lambda: None,
) -> None:
    """Compute and write one block of a plan; any process may do any block.

    Args:
        extractor: the same settings as the store was opened with.
        store: the store.
        plan: from ``plan_append`` or ``open_plan``.
        block: one of ``plan.blocks``.
        texts: columns id and text, if the store does not keep texts.
        on_computed: called before the block is written; the extractor is then free for another.
    """
    _aim(extractor, plan)
    meter = extractor.meter
    encoded = extractor.encode(_text_finder(plan, texts)(block))
    pooled = extractor.compute(encoded, dtype=STORED[store.schema.dtype])
    on_computed()
    _write(store, plan, block, pooled, meter)


def _aim(extractor: Extractor, plan: AppendPlan) -> None:
    """Have the extractor pool the layers that a plan's blocks bring, in the store's order."""
    layers = plan.record.layers
    extractor.layers = layers.get("ffn", ())
    extractor.hidden_layers = layers.get("hidden", ())
    extractor.router_layers = layers.get("router", ())
    extractor.experts_layers = layers.get("experts", ())


def _write(
    store: ActivationStore, plan: AppendPlan, block: Block, pooled: Pooled, meter: Meter
) -> None:
    start = time.perf_counter()
    arrays = {site: Turned(layers, site) for site, layers in pooled.by_site.items() if layers}
    if pooled.peaks:
        places = [layer[:, None] for layer in pooled.peaks]
        arrays["peak"] = Turned(places, "peak", STORED[store.schema.dtype])
    store.write_block(plan, block, arrays, n_tokens=pooled.n_tokens, truncated=pooled.truncated)
    meter.stage_s["write"] += time.perf_counter() - start


def _text_finder(plan: AppendPlan, texts: pa.Table | None) -> Callable[[Block], list[str]]:
    """How to get a block's texts: from the plan, or by id where the store keeps none."""
    if texts is None:
        return lambda block: list(plan.samples(block)["text"].to_pylist())
    by_id = dict(zip(texts["id"].to_pylist(), texts["text"].to_pylist(), strict=True))
    return lambda block: [by_id.get(key, "") for key in plan.samples(block)["id"].to_pylist()]


def check_disk(path: str | Path, needed: int) -> None:
    """Refuse to start what the disk cannot hold; ``needed`` in bytes. Buckets have no end."""
    if disk.is_url(path):
        return
    free = shutil.disk_usage(path).free
    if needed > free:
        raise ExtractBusy(
            f"{path}: the activations need {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free; "
            "free some space, or store fewer poolings or layers"
        )


def load_for_store(settings: BackboneConfig, path: str | Path, *, device: str) -> Backbone:
    """The backbone that fills a store: an old one by the engine that it was begun with.

    Args:
        settings: the ``[backbone]`` section; an engine that it names goes before the store's.
        path: the store's folder; it need not exist.
        device: torch device.

    Raises:
        BackboneError: as of ``load_backbone``.
        StoreError: a damaged store.
    """
    return load_from_settings(settings, device=device, made_with=made_with(settings, path))


def made_with(settings: BackboneConfig, path: str | Path) -> Engine | None:
    """The engine that a store was begun with, where the settings leave it open."""
    if settings.engine == "auto" and ActivationStore.exists(path):
        return engine_of(ActivationStore.open(path).schema.provenance)
    return None


def extract_here(
    config: RunConfig, texts: pa.Table, say: Say, backbone: Backbone | None = None
) -> ExtractReport:
    """Extract the texts that the store does not have yet, in this process; with a backbone that is
    loaded already, if it is given."""
    if backbone is None:
        backbone = load_for_store(config.backbone, config.store.path, device=config.cluster.device)
    say(
        f"backbone: {backbone.model_type}, {backbone.num_layers} blocks of {backbone.neuron_size}"
        f" neurons, hidden size {backbone.hidden_size}"
    )
    options = StoreOptions.of(config)
    report = extract_into(config.store.path, texts, backbone, config.backbone, options, say)
    golden = RunFolder(Path(config.run_dir)).golden
    options = options.going_on(config.store.path)
    write_golden(golden, options.extractor(backbone), stored_dtype=options.dtype)
    return report


def extract_into(
    path: str | Path,
    texts: pa.Table,
    backbone: Backbone,
    settings: BackboneConfig,
    options: StoreOptions,
    say: Say,
    *,
    batch_tokens: int | None = None,
) -> ExtractReport:
    """Have the backbone prove what the settings ask for, then extract what the store lacks.

    Args:
        path: the store; made if it is not there.
        texts, batch_tokens: as for ``extract_corpus``.
        backbone: the model, loaded by ``settings``.
        options: what is stored.
        say: told of remarks.

    Raises:
        BackboneError, ExtractError: as of ``proved`` and ``extract_corpus``.
    """
    options = options.going_on(path)
    settings, remarks = proved(options.extractor(backbone), settings)
    for remark in remarks:
        say(remark)
    options = options.noting(settings)
    say(size_of_texts(options, backbone, texts.num_rows))
    report = extract_corpus(
        texts,
        backbone,
        path,
        options,
        batch_tokens=batch_tokens,
    )
    return replace(report, whole=settings.whole)
