"""Texts in, labelled activations out: what `salient extract` does, for a list in memory.

    found = encode(texts, "models/roberta-base", layers=[3, 4])       # an xarray.DataArray
    for block in encode_stream(endless, "models/roberta-base"):       # a DataArray of each block
        ...
    lazy = encode(texts, "models/roberta-base", out="activations")    # into a store, resumable

The model that was used last stays loaded for the next call (`loaded`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from pipeline.backbone import Backbone, Encoded
from pipeline.cluster import free_memory
from pipeline.config import BackboneConfig, NormaliseConfig, StoreConfig, first_problem
from pipeline.errors import ConfigError, CorpusError, ExtractError, did_you_mean
from pipeline.events import Tally
from pipeline.extraction.extractor import STORED, Extractor, Turned
from pipeline.extraction.lanes import ahead
from pipeline.extraction.loaded import MODEL, kept_model, model_section
from pipeline.extraction.proving import prove_plain
from pipeline.extraction.storing import StoreOptions, extract_into, made_with, schema_of
from pipeline.progress import Say, showing
from pipeline.texts import given_ids, given_pairs, given_texts, in_blocks, normaliser
from store import ActivationStore, ChangedTextError, StoreSchema, disk, open_dataset, text_hash
from store.reading import in_memory

Layers = Sequence[int] | Mapping[str, Sequence[int]]
Several = list[str] | tuple[str, ...]
Section = TypeVar("Section", bound=BaseModel)
WHOSE = ("backbone", "backbone_revision", "fingerprint")
"""Attributes of a Dataset that say which model its numbers come from."""
BLOCK = 1024
"""Texts in a block of a stream."""


@overload
def encode(
    texts: Iterable[Any],
    model: str | os.PathLike[str] = MODEL,
    *,
    sites: str = "ffn",
    layers: Layers | None = None,
    poolings: Sequence[str] = ("mean", "max"),
    ids: Iterable[Any] | None = None,
    dtype: str | None = None,
    device: str = "auto",
    batch_tokens: int | None = None,
    progress: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> xr.DataArray:
    """Of one site."""


@overload
def encode(
    texts: Iterable[Any],
    model: str | os.PathLike[str] = MODEL,
    *,
    sites: Several,
    layers: Layers | None = None,
    poolings: Sequence[str] = ("mean", "max"),
    ids: Iterable[Any] | None = None,
    dtype: str | None = None,
    device: str = "auto",
    batch_tokens: int | None = None,
    progress: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> xr.Dataset:
    """Of several."""


def encode(
    texts: Iterable[Any],
    model: str | os.PathLike[str] = MODEL,
    *,
    sites: str | Several = "ffn",
    layers: Layers | None = None,
    poolings: Sequence[str] = ("mean", "max"),
    ids: Iterable[Any] | None = None,
    dtype: str | None = None,
    device: str = "auto",
    batch_tokens: int | None = None,
    progress: bool | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> xr.DataArray | xr.Dataset:
    """Activations of texts inside a model, labelled; the numbers that `salient extract` stores.

        encode(["what a day", "so sad"]).sel(layer=4, pooling="mean")

    Equal texts are computed once. The model that was used last stays in memory for the next call;
    ``pipeline.extraction.forget_model()`` lets it go.

    Args:
        texts: a list, array, Series or column of ``n`` strings.
        model: a model folder, ``package:NAME``, or of a hub ``user/name@COMMIT``.
        sites: one of "ffn" (neurons), "hidden" (hidden states), "router" and "experts" (of
            mixtures of experts), or several.
        layers: which ones, of several sites by site (``{"ffn": [3], "hidden": [0, -1]}``); negative
            numbers count from the last. The model runs no deeper than is needed. Default: all.
        poolings: "mean", "max", "first", "last": how a text's tokens become one number.
        ids: ``(n,)`` strings or whole numbers, each once, to index the samples by; default "0",
            "1", …
        dtype: of the numbers, "float32" (default) or "float16" (default in a store, which opens
            as float32 all the same; so does what is written with ``to_netcdf``).
        device: torch device; "auto" takes a GPU if there is one.
        batch_tokens: tokens in a batch; fewer need less memory.
        progress: a bar; default only on a terminal or in a notebook.
        out: a store's folder, made if it is not there, to which the texts are added in whole
            blocks: killed, the same call goes on; what it holds is not computed again.
        **settings: ``normalise``: False reads texts as they are, a mapping switches single steps;
            default as the commands do (keys of ``NormaliseConfig``). ``precision``: of the forward
            pass, "float32" or "bfloat16". Keys of ``BackboneConfig`` such as ``revision``,
            ``max_length``, ``prefix``, ``special_tokens``, ``trust_remote_code``, and of
            ``StoreConfig``, such as ``experts``, ``peaks``, ``keep_text``, ``samples_per_shard``.

    Returns:
        Of one site a DataArray ``(layer, pooling, neuron, sample)``, of hidden states
        ``(hidden_layer, pooling, hidden_unit, sample)``; of several a Dataset with a variable of
        each; beside them each sample's normalised ``text``, ``n_tokens`` and whether it was
        ``truncated``. In memory; with ``out`` lazily read, and of exactly these texts.

    Raises:
        CorpusError: a row that is no text, a bad id; names the row.
        ConfigError: a wrong argument; names the valid ones.
        BackboneError: a model that cannot be used.
        ExtractError: too large for memory or the disk, or a store of another model or settings.
    """
    asked = _Asked.of(model, sites, layers, poolings, dtype, out, settings)
    rows = given_texts(texts)
    names = given_ids(ids, len(rows))
    clean = normaliser(asked.normalise)
    rows = [clean(text) for text in rows]
    with showing(progress) as say:
        if out is not None:
            found = _into_store(asked, rows, names, device, batch_tokens, say)
        else:
            found = _encoder(asked, device, batch_tokens).dataset(rows, names)
    return asked.shown(found)


def encode_stream(
    texts: Iterable[Any],
    model: str | os.PathLike[str] = MODEL,
    *,
    sites: str | Several = "ffn",
    layers: Layers | None = None,
    poolings: Sequence[str] = ("mean", "max"),
    dtype: str | None = None,
    device: str = "auto",
    batch_tokens: int | None = None,
    block_size: int = BLOCK,
    **settings: Any,
) -> Iterator[Any]:
    """Activations of a stream of texts, which may have no end, block by block.

        for block in encode_stream((line for line in file), block_size=4096):
            block.mean("sample")

    Args:
        texts: strings, or pairs of an id and a string; drawn in another thread, a block ahead.
        model, sites, layers, poolings, dtype, device, batch_tokens: as of :func:`encode`.
        block_size: texts in a block.
        **settings: as of :func:`encode`, but for what is a store's alone.

    Yields:
        What :func:`encode` returns, of a block of texts each, in order. Without ids the samples
        are called by their running number, from "0".

    Raises:
        CorpusError: an item that is no text, once the blocks before it have been handed out.
        ConfigError, BackboneError, ExtractError: as of :func:`encode`, before the first text is
            drawn.
    """
    if _whole(block_size, "block_size") < 1:
        raise ConfigError(f"block_size {block_size}: give at least 1 text a block")
    asked = _Asked.of(model, sites, layers, poolings, dtype, None, settings)
    pairs = given_pairs(texts)
    encoder, clean = _encoder(asked, device, batch_tokens), normaliser(asked.normalise)

    def prepare(block: list[tuple[str, str]]) -> tuple[list[str], list[str], Encoded]:
        names = given_ids([name for name, _ in block], len(block))
        rows = [clean(text) for _, text in block]
        return rows, names, encoder.extractor.encode([*dict.fromkeys(rows)])

    def blocks() -> Iterator[Any]:
        for rows, names, encoded in ahead(in_blocks(pairs, block_size), prepare):
            whole = encoder.room(len(rows))
            encoder.fill(whole, _places(rows), 0, encoded)
            yield asked.shown(encoder.labelled(whole, rows, names))

    return blocks()


@dataclass(frozen=True)
class _Asked:
    """What the caller asked for, as the sections of a configuration."""

    backbone: BackboneConfig
    store: StoreConfig
    normalise: NormaliseConfig
    layers: Layers | None
    single: str | None
    """The site, where only one is asked for."""
    in_store: bool

    @classmethod
    def of(
        cls,
        model: str | os.PathLike[str],
        sites: str | Several,
        layers: Layers | None,
        poolings: Sequence[str],
        dtype: str | None,
        out: str | os.PathLike[str] | None,
        settings: Mapping[str, Any],
    ) -> _Asked:
        """Check what was given, by the configuration's own rules."""
        of_model = set(BackboneConfig.model_fields) - {"model", "dtype"}
        of_store = {"experts", "peaks"}
        if out is not None:
            of_store |= {"keep_text", "samples_per_shard"}
        known = {*of_model, *of_store, "precision", "normalise"}
        if odd := sorted(set(settings) - known):
            hint = did_you_mean(odd[0], known)
            raise ConfigError(
                f"{odd[0]}: unknown argument; {hint and f'{hint} '}further ones are"
                f" {', '.join(sorted(known))}"
            )
        single = sites if isinstance(sites, str) else None
        if single and settings.get("peaks"):
            raise ConfigError(f"peaks lie beside their site: give sites = ({single!r},)")
        default = "float32" if out is None else "float16"
        place = os.fspath(out or ".")
        if not disk.is_url(place):
            place = str(Path(place).expanduser())
        store = {"path": place, "dtype": dtype or default}
        several = {"poolings": _listed(poolings, "poolings", "mean")}
        several["sites"] = (single,) if single else _listed(sites, "sites", "ffn")
        backbone = {
            **model_section(model, settings.get("revision")),
            "dtype": settings.get("precision", "float32"),
        }
        normalise = settings.get("normalise", True)
        if isinstance(normalise, bool):
            normalise = dict.fromkeys(NormaliseConfig.model_fields, normalise)
        elif isinstance(normalise, NormaliseConfig):
            normalise = normalise.model_dump()
        return cls(
            _section(
                BackboneConfig, {k: settings[k] for k in settings if k in of_model} | backbone
            ),
            _section(
                StoreConfig,
                store | several | {k: settings[k] for k in settings if k in of_store},
                single,
            ),
            _section(NormaliseConfig, normalise),
            layers,
            single,
            out is not None,
        )

    def options(self, backbone: Backbone) -> StoreOptions:
        """What of the backbone is to be had."""
        options = StoreOptions.of_sections(self.backbone, self.store, self.normalise)
        only = _only(self.layers, self.store.sites or (), backbone)
        if "hidden" not in (self.store.sites or ()) and (only or not self.in_store):
            return replace(options, only=only, hidden="none")  # a store has the final one beside
        return replace(options, only=only)

    def shown(self, found: xr.Dataset) -> xr.DataArray | xr.Dataset:
        """The array, which then says whose it is, where one site was asked for; without what a
        store alone knows of its texts."""
        found = found.drop_vars(["created_at", "text_hash"], errors="ignore")
        for values in found.data_vars.values():
            if values.dtype == np.float16:
                values.encoding["dtype"] = "float32"  # netCDF has none
        if self.single is None:
            return found
        whose = {key: found.attrs[key] for key in WHOSE if key in found.attrs}
        return found[self.single].assign_attrs(whose)


def _listed(values: Any, name: str, example: Any) -> tuple[Any, ...]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        shown = values if isinstance(values, str) else example
        raise ConfigError(f"{name} {values!r}: give a list of them: [{shown!r}]")
    return tuple(values)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{name}: {value!r} is no whole number ({type(value).__name__})")
    return int(value)


def _section(kind: type[Section], settings: Any, single: str | None = None) -> Section:
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        problem = first_problem(error, kind)
        if single is not None:
            problem = problem.replace("sites[1]", "sites", 1)
        if kind is BackboneConfig and problem.startswith("dtype:"):
            problem = problem.replace("dtype", "precision", 1)
        raise ConfigError(problem) from None


def _only(
    layers: Layers | None, sites: Sequence[str], backbone: Backbone
) -> dict[str, tuple[int, ...]]:
    """Site -> the layers that are asked for, counted from the first; none where all are."""
    if layers is None:
        return {}
    if not isinstance(layers, Mapping):
        layers = dict.fromkeys(sites, layers)
    found = {}
    for site, wanted in layers.items():
        wanted = _listed(wanted, "layers", 0)
        if site not in sites:
            raise ConfigError(f"layers of {site!r}: not among the sites {', '.join(sites)}")
        backbone.check_sites([site])
        has = backbone.site_layers(site)
        given = [_whole(layer, f"layers of {site}") for layer in wanted]
        numbers = [layer + has[-1] + 1 if layer < 0 else layer for layer in given]
        if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(has):
            raise ConfigError(
                f"layers {given} of {site}: name at least one, each once; this model has"
                f" {has[0]} to {has[-1]}"
            )
        found[site] = tuple(numbers)
    return found


# ------------------------------------------------------------------ in memory


@dataclass(frozen=True)
class _Encoder:
    """An extractor, and the schema of the store that it would fill."""

    extractor: Extractor
    options: StoreOptions

    def schema(self, num_texts: int) -> StoreSchema:
        """Of a store of so many texts."""
        return schema_of(self.extractor, self.options, num_texts)

    def room(self, num_texts: int) -> dict[str, NDArray[Any]]:
        """Array name -> ``(layer, pooling, unit, texts)``, to be filled; so are the tokens'
        number and whether a text was cut, ``(texts,)``.

        Raises:
            ExtractError: more than there is memory.
        """
        schema = self.schema(num_texts)
        needed, free = num_texts * schema.bytes_per_sample, free_memory()
        if needed > free:
            raise ExtractError(
                f"texts: the activations of {num_texts:,} need {needed / 1e9:,.1f} GB,"
                f" {free / 1e9:,.1f} GB of memory are free; give out=FOLDER for a store, take"
                " fewer layers, or go through them with encode_stream"
            )
        counts = {"n_tokens": np.empty(num_texts, np.int32), "truncated": np.empty(num_texts, bool)}
        return counts | {
            name: np.empty((len(one.layers), one.num_poolings, one.width, num_texts), schema.dtype)
            for name, one in schema.arrays.items()
        }

    def fill(
        self,
        whole: Mapping[str, NDArray[Any]],
        places: NDArray[np.int64],
        start: int,
        encoded: Encoded,
        tally: Tally | None = None,
    ) -> None:
        """Compute different texts, ``start`` being the first one's number.

        Args:
            whole: from ``room``.
            places: ``(texts,)`` number of the different text at each place.
            start, encoded: the different texts that are computed.
            tally: of the different texts.
        """

        def on_batch(done: int) -> None:
            if tally is not None:
                tally(start + done)

        dtype = STORED[self.options.dtype]
        pooled = self.extractor.compute(encoded, dtype=dtype, on_batch=on_batch)
        at = np.flatnonzero((places >= start) & (places < start + len(encoded)))
        for name, layers in pooled.by_site.items():
            if layers:
                self._place(whole[name], Turned(layers, name), at, places[at] - start)
        if pooled.peaks:
            peaks = [layer[:, None] for layer in pooled.peaks]
            self._place(whole["peak"], Turned(peaks, "peak", dtype), at, places[at] - start)
        whole["n_tokens"][at] = pooled.n_tokens[places[at] - start]
        whole["truncated"][at] = pooled.truncated[places[at] - start]
        on_batch(len(encoded))

    @staticmethod
    def _place(
        whole: NDArray[Any], layers: Turned, at: NDArray[np.int64], of: NDArray[np.int64]
    ) -> None:
        straight = len(at) and at[-1] - at[0] + 1 == len(at) == len(of) == layers.shape[-1]
        for number, layer in enumerate(layers):
            if straight and np.array_equal(of, np.arange(len(of))):
                whole[number, ..., at[0] : at[0] + len(at)] = layer
            else:
                whole[number][..., at] = layer[..., of]

    def dataset(self, rows: list[str], names: list[str]) -> xr.Dataset:
        """All texts, block by block as a store's are computed, so that the bits are the same."""
        whole, places = self.room(len(rows)), _places(rows)
        different = list(dict.fromkeys(rows))
        tally = Tally("encoded", len(different), "texts")
        size = self.schema(len(rows)).samples_per_shard
        starts = range(0, len(different), size)

        def prepare(start: int) -> tuple[int, Encoded]:
            return start, self.extractor.encode(different[start : start + size])

        for start, encoded in ahead(starts, prepare):
            self.fill(whole, places, start, encoded, tally)
        return self.labelled(whole, rows, names)

    def labelled(
        self, whole: Mapping[str, NDArray[Any]], rows: list[str], names: list[str]
    ) -> xr.Dataset:
        """The arrays with their coordinates."""
        samples = pa.table(
            {
                "id": pa.array(names, pa.string()),
                "text": pa.array(rows, pa.string()),
                "text_hash": pa.array([text_hash(text) for text in rows], pa.string()),
                "created_at": pa.nulls(len(rows), pa.int64()),
                "n_tokens": whole["n_tokens"],
                "truncated": whole["truncated"],
            }
        )
        arrays = {name: values for name, values in whole.items() if values.ndim > 1}
        return in_memory(self.schema(len(rows)), samples, arrays)


def _encoder(asked: _Asked, device: str, batch_tokens: int | None) -> _Encoder:
    backbone = kept_model(asked.backbone, device=device)
    options = asked.options(backbone)
    extractor = options.extractor(backbone)
    extractor.batch_tokens = _checked(batch_tokens) or extractor.batch_tokens
    if asked.backbone.check == "full":
        prove_plain(extractor, asked.backbone)
    return _Encoder(extractor, options)


def _places(rows: Sequence[str]) -> NDArray[np.int64]:
    """Number of each text among the different ones, by their first places."""
    number = {text: i for i, text in enumerate(dict.fromkeys(rows))}
    return np.array([number[text] for text in rows], np.int64)


def _checked(batch_tokens: int | None) -> int | None:
    if batch_tokens is not None and _whole(batch_tokens, "batch_tokens") < 1:
        raise ConfigError(f"batch_tokens {batch_tokens}: give at least 1 token a batch")
    return batch_tokens


# ------------------------------------------------------------------ into a store


def _into_store(
    asked: _Asked,
    rows: list[str],
    names: list[str],
    device: str,
    batch_tokens: int | None,
    say: Say,
) -> xr.Dataset:
    """Add the texts that the store lacks; all of these, lazily."""
    path = asked.store.path
    engine = made_with(asked.backbone, path)
    backbone = kept_model(asked.backbone, device=device, made_with=engine)
    options = asked.options(backbone)
    table = pa.table({"id": pa.array(names, pa.string()), "text": pa.array(rows, pa.string())})
    tokens = _checked(batch_tokens)
    try:
        extract_into(path, table, backbone, asked.backbone, options, say, batch_tokens=tokens)
    except ChangedTextError as error:
        raise CorpusError(f"{error}; give ids= of their own to other texts") from None
    store = ActivationStore.open(path)
    found = open_dataset(path, labels=(), snapshot=store.snapshot_id)
    wanted = set(asked.store.sites or ()) | ({"peak"} if asked.store.peaks else set())
    found = found[[name for name in found.data_vars if name in wanted]]
    positions: NDArray[np.int64] = store.samples()["position"].to_numpy()
    found = found.isel(sample=np.searchsorted(positions, store.positions(names)))
    for site, layers in options.only.items():
        found = found.sel({found[site].dims[0]: list(layers)})
    return found.assign_coords(sample=found.sample.copy(data=np.array(names, object)))
