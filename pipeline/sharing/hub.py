"""Heads to a hub of models and back, through ``huggingface_hub``.

    pushed = push(Path("runs/mood"), "hub:alice/moods", Terms(licence="apache-2.0"))
    pulled = pull(f"hub:alice/moods@{pushed.commit}")
    scorer = Scorer.load(pulled.folders)

A repository holds ``README.md``, the model card, and ``heads/TASK/``: a head's folder for each
task. A push is one commit: all of it is there, or nothing. A pull fetches the files of heads by
their names and nothing else, up to a size, and looks each through before anything is done with it.

The address and the log-in are those of ``huggingface_hub``: ``HF_ENDPOINT``, ``HF_TOKEN`` or
``hf auth login``, ``HF_HOME`` for its cache, ``HF_HUB_OFFLINE``. Tested against a
local server of the same HTTP calls (``tests/builders/hub.py``), without xet, and no real hub.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.backbone import told, unreached
from pipeline.errors import ConfigError, HubError, HubInputError, HubUnreachable, missing
from pipeline.extraction import read_outputs
from pipeline.heads import REFERENCE_FILE, Head, Reference, describe_heads
from pipeline.progress import Say, silent
from pipeline.sharing.address import HubAddress, is_hub
from pipeline.sharing.card import Terms, model_card
from pipeline.sharing.packing import (
    CARD,
    FILES,
    HEADS,
    REQUIRED,
    SharedHead,
    head_folders,
    pack,
    write_heads,
)
from store.errors import SalientError
from store.tables import write_json

README = "README.md"
RECORD = "hub.json"
"""In a folder that was pulled to: where its heads are from."""
MAX_BYTES = 2**34
"""Of all files of a repository together."""
RAISED: dict[str, type[SalientError]] = {"refused": HubInputError, "unreachable": HubUnreachable}
MAX_README_BYTES = 2**20
MAX_HEADS = 256
_FILE = re.compile(rf"{HEADS}/([A-Za-z0-9][A-Za-z0-9_.-]*)/({'|'.join(map(re.escape, FILES))})")


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do.

    Attributes:
        repository: ``user/name``.
        files: path in the repository -> bytes.
        card: text of the model card.
        commit: of 40 digits; None for a dry run.
        created: whether the repository is new.
        changed: whether there was anything to commit.
    """

    repository: str
    files: dict[str, int]
    card: str
    commit: str | None = None
    created: bool = False
    changed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        address = None if self.commit is None else str(HubAddress(self.repository, self.commit))
        return {**vars(self), "heads": address}


@dataclass(frozen=True)
class Pulled:
    """Heads that were pulled, and looked through.

    Attributes:
        repository: ``user/name``.
        asked: the revision that was asked for; None: the main branch.
        commit: what that is, 40 digits.
        folder: where they lie now.
        heads: as they were read.
    """

    repository: str
    asked: str | None
    commit: str
    folder: Path
    heads: tuple[Head, ...] = field(repr=False)

    @property
    def folders(self) -> list[Path]:
        """The heads' folders, in the order of their names."""
        return head_folders(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "repository": self.repository,
            "asked": self.asked,
            "commit": self.commit,
            "heads": {head.card.task: str(head.folder) for head in self.heads},
        }


def push(
    source: Path,
    name: str,
    terms: Terms | None = None,
    *,
    tasks: Sequence[str] = (),
    private: bool = False,
    with_words: bool = False,
    dry_run: bool = False,
    say: Say = silent,
) -> Pushed:
    """Share the chosen heads of a run, or a head's folder, as one commit of a model repository.

    Args:
        source: a finished run's folder or TOML file, or a head's folder.
        name: ``hub:user/name``; made if it is not there.
        terms: licences.
        tasks: heads of these tasks only. Heads of other tasks that an earlier push left go.
        private: make it a private repository.
        with_words: n-grams, which are words of the training texts, may be published.
        dry_run: only say what would be done; nothing leaves this machine.
        say: called with lines.

    Raises:
        ConfigError: a wrong name or task, or something that must be allowed first.
        SalientError: heads that cannot be shared, or a hub that refuses.
    """
    address, terms = HubAddress.parse(name), terms or Terms()
    if address.revision is not None:
        raise ConfigError(f"{name}: heads are pushed to the main branch; leave @ and what follows")
    for said in (terms.licence, terms.data):
        if said is not None and not said.isprintable():
            raise ConfigError(f"{said!r}: is to be shown on a page; leave control characters out")
    heads = pack(source, tasks=tasks, with_words=with_words, say=say)
    if words := sum(one.num_words for one in heads):
        say(f"{words:,} words and pieces of words of the training texts go along (lexicon.json)")
    card = model_card(heads, address.repository, terms)
    with tempfile.TemporaryDirectory(prefix="salient-push-") as made:
        folder = Path(made)
        names = write_heads(heads, folder, licence=terms.licence)
        (folder / README).write_text(card, encoding="utf-8")
        files = {name: (folder / name).stat().st_size for name in [README, *names]}
        planned = Pushed(address.repository, files, card)
        if dry_run:
            return planned
        with _library(), told(address, "pushed", **RAISED):
            return _commit(planned, folder, heads, private=private, say=say)


def _commit(
    planned: Pushed, folder: Path, heads: Sequence[SharedHead], *, private: bool, say: Say
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api, repository = HfApi(), planned.repository
    before, created = _repository(api, repository, private=private, say=say)
    there = [one.rfilename for one in before.siblings or ()]
    stale = [name for name in there if name.startswith(f"{HEADS}/") and name not in planned.files]
    operations: list[Any] = [CommitOperationDelete(name) for name in stale]
    operations += [CommitOperationAdd(name, str(folder / name)) for name in planned.files]
    if stale:
        say(f"{repository}: {len(stale)} files of earlier heads go; earlier commits keep them")
    done = api.create_commit(
        repository,
        operations,
        commit_message=f"Heads: {describe_heads([one.head for one in heads])}"[:200],
        parent_commit=before.sha,
    )
    found = {one.rfilename for one in api.model_info(repository, revision=done.oid).siblings or ()}
    if lacking := sorted(set(planned.files) - found):
        raise HubError(
            f"hub:{repository}@{done.oid}: the hub left out {', '.join(lacking)}; look for a"
            " .gitignore there, and push again"
        )
    return Pushed(
        repository, planned.files, planned.card, done.oid, created, done.oid != before.sha
    )


def _repository(api: Any, repository: str, *, private: bool, say: Say) -> tuple[Any, bool]:
    """What the hub says of a repository, which is made if need be, and whether it is new."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    created = False
    try:
        found = api.model_info(repository)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        created = True
        api.create_repo(repository, private=private or None, exist_ok=True)
        found = api.model_info(repository)
    if private and not found.private:
        raise ConfigError(
            f"hub:{repository}: is there already, and public; make it private on its page, or leave"
            " --private out"
        )
    kind = "private" if found.private else "public"
    if created:
        say(f"hub:{repository}: made, {kind}")
    else:
        say(f"hub:{repository}: is there already, {kind}; this will be its next commit")
    return found, created


def pull(name: str, folder: Path | None = None, *, say: Say = silent) -> Pulled:
    """Fetch the heads of a repository, and look them through.

    Args:
        name: ``hub:user/name`` or ``hub:user/name@revision``.
        folder: copy them there, into a new folder; None: they stay in ``huggingface_hub``'s cache,
            in a folder that is called by the commit.
        say: called with lines.

    Raises:
        ConfigError: a wrong name, or a folder that is taken.
        HubError: a hub that refuses, or no heads there.
        SalientError: heads that are damaged.
    """
    address = HubAddress.parse(name)
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already and not empty; name a new folder")
    with _library(), told(address, "pulled", **RAISED):
        fetched = _fetched(address, say)
    commit = fetched.name
    if not address.pinned:
        say(f"{address}: is now at commit {commit}; {address.at(commit)} always means these files")
    heads = _looked_through(address, fetched)
    if folder is None:
        return Pulled(address.repository, address.revision, commit, fetched, tuple(heads))
    _copy(fetched, heads, folder, address, commit)
    heads = [Head.load(one) for one in head_folders(folder)]
    return Pulled(address.repository, address.revision, commit, folder, tuple(heads))


def find_folders(given: Sequence[Path | str], *, say: Say = silent) -> list[Path]:
    """Head folders of what was given as heads.

    Args:
        given: head folders, folders that were pulled, and names on a hub.
        say: called with lines.

    Raises:
        SalientError: as :func:`pull`; what holds no head is handed back as it is.
    """
    found: list[Path] = []
    for one in given:
        path = pull(str(one), say=say).folder if is_hub(one) else Path(one)
        pulled = is_hub(one) or (path / RECORD).is_file()
        found += head_folders(path) if pulled else [path]
    return found


@contextmanager
def _library() -> Iterator[None]:
    """``huggingface_hub`` without its bars: heads are small, and lines are said instead.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from huggingface_hub import constants

        utils: Any = import_module("huggingface_hub.utils")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "huggingface_hub":
            raise  # installed, and lacks something itself
        raise missing(error.name, "a hub of models", extra="extract") from None
    fixed = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    shown = not fixed and not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def _fetched(address: HubAddress, say: Say) -> Path:
    """The folder of the cache with a repository's heads; its name is the commit.

    A commit that is in the cache serves where the hub cannot be reached; a branch does so only if
    ``HF_HUB_OFFLINE`` says so.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    repository = address.repository
    if constants.HF_HUB_OFFLINE:
        say(f"{address}: HF_HUB_OFFLINE is set, so what is in the cache is used")
        return _cached(address)
    try:
        info = HfApi().model_info(repository, revision=address.revision, files_metadata=True)
        sizes = {one.rfilename: one.size for one in info.siblings or ()}
        names = _chosen(address, sizes)
        found = Path(snapshot_download(repository, revision=info.sha, allow_patterns=names))
    except Exception as error:
        if not (address.pinned and unreached(error)):
            raise
        try:
            found = _cached(address)
        except Exception:
            raise error from None
        say(f"{address}: the hub cannot be reached, so the copy in the cache is used")
    return found


def _cached(address: HubAddress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            address.repository,
            revision=address.revision,
            allow_patterns=[f"{HEADS}/*/{name}" for name in FILES],
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        raise HubInputError(
            f"{address}: is not, or not whole, in the cache of huggingface_hub, and HF_HUB_OFFLINE"
            " is set; unset it, or pull once where there is a network"
        ) from None
    return Path(found)


def _chosen(address: HubAddress, sizes: dict[str, int | None]) -> list[str]:
    """The files to fetch.

    Raises:
        HubError: no heads there, too many, or too large.
    """
    names = [name for name in sizes if _FILE.fullmatch(name)]
    tasks = {name.split("/")[1] for name in names if name.endswith(f"/{CARD}")}
    if not tasks:
        raise HubInputError(
            f"{address}: holds no heads (no {HEADS}/TASK/{CARD}); name a repository that"
            " `salient push` wrote"
        )
    names = [name for name in names if name.split("/")[1] in tasks]
    for name in names:
        if (sizes[name] or 0) > FILES[name.split("/")[2]]:
            raise HubInputError(
                f"{address}: {name} has {sizes[name]:,} bytes, more than a head's"
                f" {FILES[name.split('/')[2]]:,}; nothing was fetched"
            )
    total = sum(sizes[name] or 0 for name in names)
    if len(tasks) > MAX_HEADS or total > MAX_BYTES:
        raise HubInputError(
            f"{address}: {len(tasks)} heads of {total:,} bytes, more than {MAX_HEADS} or"
            f" {MAX_BYTES:,}; nothing was fetched"
        )
    readme = sizes.get(README)
    return names + ([README] if readme is not None and readme <= MAX_README_BYTES else [])


def _looked_through(address: HubAddress, folder: Path) -> list[Head]:
    """The heads, read as who scores with them reads them.

    Raises:
        SalientError: one is damaged, or another task's, or without golden texts.
    """
    heads = []
    for own in head_folders(folder):
        checked_name = own.name
        for name in REQUIRED:
            if not (own / name).is_file():
                raise HubError(
                    f"{address}: {HEADS}/{checked_name} has no {name}, without which a head is not"
                    " used: scoring could not tell whether the model is the same; ask its owner to"
                    " push it again"
                )
        for name, most in FILES.items():
            if (own / name).is_file() and (own / name).stat().st_size > most:
                raise HubError(f"{address}: {HEADS}/{checked_name}/{name} is longer than {most:,}")
        head = Head.load(own)
        if head.card.task != checked_name:
            raise HubError(
                f"{address}: {HEADS}/{checked_name} is a head of task {head.card.task!r}; ask its"
                " owner to push it again"
            )
        read_outputs(own)
        if (own / REFERENCE_FILE).is_file():
            Reference.read(own, head)
        heads.append(head)
    return heads


def _copy(
    fetched: Path, heads: Sequence[Head], folder: Path, address: HubAddress, commit: str
) -> None:
    """Put the files of heads into a folder, which appears whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
        fresh = Path(made) / "pulled"
        for head in heads:
            target = fresh / HEADS / head.card.task
            target.mkdir(parents=True)
            for name in FILES:
                if (own := fetched / HEADS / head.card.task / name).is_file():
                    shutil.copyfile(own, target / name)
        if (fetched / README).is_file():
            shutil.copyfile(fetched / README, fresh / README)
        record = {"repository": address.repository, "asked": address.revision, "commit": commit}
        write_json(fresh / RECORD, {"format_version": 1, **record})
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
