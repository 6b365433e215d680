"""What happens to scores after they are written, wherever they are: deleted for good, or mended.

    delete_scores("s3://scores/sentiment", ["1344908468193435649"])
    print(repair_scores(Path("scores")))

On a disk by ``pipeline.scoring.deletion`` and ``repair``, in a bucket by ``erasure`` and
``mending``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pipeline.progress import Say, silent
from pipeline.scoring import deletion, repair
from pipeline.scoring.deletion import DeletionReport
from pipeline.scoring.erasure import erase
from pipeline.scoring.mending import GRACE_S, mend
from pipeline.scoring.repair import RepairReport
from store.disk import is_url


def delete_scores(
    folder: Path | str,
    ids: Iterable[str] = (),
    *,
    authors: Collection[str] = (),
    dumps: Sequence[Path | str] = (),
    forget: bool = False,
    dry_run: bool = False,
    say: Say = silent,
) -> DeletionReport:
    """Take tweets out of a folder of scores, or of one in a bucket.

    Args:
        folder: of the scores, or its URL.
        ids, authors, dumps, forget, dry_run, say: see ``pipeline.scoring.deletion``.

    Raises:
        SalientError: see there.
    """
    return deletion.delete_scores(
        folder,
        ids,
        authors=authors,
        dumps=dumps,
        forget=forget,
        dry_run=dry_run,
        within=erase if is_url(folder) else None,
        say=say,
    )


def repair_scores(
    folder: Path | str, *, dry_run: bool = False, grace_s: float = GRACE_S, say: Say = silent
) -> RepairReport:
    """Mend a folder of scores, or one in a bucket.

    Args:
        folder: of the scores, or its URL.
        dry_run: change nothing, only tell.
        grace_s: in a bucket: how old a staged part must be to be taken for a dead writer's.
        say: told of progress.

    Raises:
        SalientError: see ``pipeline.scoring.repair`` and ``mending``.
    """
    if is_url(folder):
        return mend(str(folder), dry_run=dry_run, grace_s=grace_s, say=say)
    return repair.repair_scores(Path(folder), dry_run=dry_run, say=say)
