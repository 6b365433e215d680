"""Whose turn it is to carry out the plan of a bucket's store.

    head = await_turn(location)         # nobody else carries out its plan, or it is taken over
    take_turn(location, plan_id, None)  # a new plan of one's own
    end_turn(location, plan_id)

Nothing that is committed depends on it: whoever publishes upon an older snapshot loses, and a plan
that was taken over is found replaced. Turns only keep two processes from computing the same, or
from replacing each other's plan for ever. Who has a turn renews `lease.json` beside the plan's
tables, by a thread. Who waits watches it with a clock of his own, so that clocks of machines need
not agree: what does not change for as long as it promises belongs to nobody. A process of this
machine that is gone is known at once.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from store.disk import Meta, ObjectLocation, new_writer, patience
from store.errors import StoreBusy, StoreError
from store.records import PLANS, Snapshot, load_snapshot

logger = logging.getLogger(__name__)
LEASE = "SALIENT_LEASE_S"
"""Environment variable: seconds after which a holder that says nothing has lost its turn."""
LEASE_S = 30.0
RENEWALS = 4
"""How often a lease is renewed within its time."""
FIRST_POLL_S, LONGEST_POLL_S = 0.05, 1.0
WAIT_IN_SILENCE_S = 2.0
END_S = 5.0
"""How long a thread that renews may take to end."""


class _Turn:
    """A lease of this process, renewed until it is released."""

    def __init__(self, location: ObjectLocation, plan_id: str, holder: str, meta: Meta) -> None:
        self.location, self.plan_id = location, plan_id
        self._holder, self._meta = holder, meta
        self.lost = False
        self._count = 0
        self._say = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="store-lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(lease_s() / RENEWALS):
            self._count += 1
            with contextlib.suppress(StoreError):  # the network may come back
                if not self._put(_lease(self._holder, self._count)):
                    self.lost = True
                    return
        if self._say:
            with contextlib.suppress(StoreError):
                self._put(_lease("", self._count + 1))

    def _put(self, content: bytes) -> bool:
        """Write the lease; False: it is another's now, or gone with its plan."""
        path = lease_path(self.plan_id)
        try:
            self.location.replace(path, content, self._meta)
            found, self._meta = self.location.get(path)
        except FileNotFoundError:
            return False
        said = _decode(found)
        if said.get("holder") != self._holder:
            return False
        # An answer that got lost, or a renewal upon an older one: it is ours all the same.
        return found == content or self.location.replace(path, content, self._meta)

    def end(self, *, say: bool) -> None:
        """Renew it no longer.

        Args:
            say: tell those who wait; not where the plan goes.
        """
        self._say = say
        self._ended.set()
        self._thread.join(END_S)


_turns: dict[tuple[str, str], _Turn] = {}
_lock = threading.RLock()


def lease_s() -> float:
    """Seconds after which a holder that says nothing has lost its turn."""
    try:
        seconds = float(os.environ.get(LEASE, "") or LEASE_S)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise StoreError(f"{LEASE} is {os.environ[LEASE]!r}; give seconds, such as 30, or unset it")
    return seconds


def lease_path(plan_id: str) -> str:
    """The object that says who carries out a plan."""
    return f"{PLANS}/{plan_id}/lease.json"


def holds_turn(location: ObjectLocation, plan_id: str) -> bool:
    """Whether this process carries out a plan."""
    with _lock:
        turn = _turns.get((location.address, plan_id))
        return turn is not None and not turn.lost


def take_turn(location: ObjectLocation, plan_id: str, found: Meta | None) -> bool:
    """Carry out a plan from now on.

    Args:
        location: of the store.
        plan_id: of the plan.
        found: the lease as it was found; None if there is none.

    Returns:
        False: another process was first.
    """
    path, holder = lease_path(plan_id), new_writer()
    content = _lease(holder, 0)
    if found is None:
        done = location.create(path, content)
    else:
        done = location.replace(path, content, found)
    if not done:
        return False
    try:
        there, meta = location.get(path)
    except FileNotFoundError:
        return False
    if there != content:
        return False
    with _lock:
        _turns[location.address, plan_id] = _Turn(location, plan_id, holder, meta)
    return True


def end_turn(location: ObjectLocation, plan_id: str, *, say: bool = False) -> None:
    """Carry out a plan no longer; harmless where this process does not.

    Args:
        location: of the store.
        plan_id: of the plan.
        say: tell those who wait; not where the plan goes.
    """
    with _lock:
        turn = _turns.pop((location.address, plan_id), None)
    if turn is not None:
        turn.end(say=say)


def release_turns(location: ObjectLocation) -> None:
    """Carry out no plan of this store any longer, and tell those who wait."""
    for address, plan_id in list(_turns):
        if address == location.address:
            end_turn(location, plan_id, say=True)


def await_turn(location: ObjectLocation, known: Snapshot | None = None) -> Snapshot:
    """Wait until no other process carries out the plan under way; what is under way is taken over.

    Args:
        location: of the store.
        known: the last commit as far as is known.

    Returns:
        The last commit; if it has a plan, this process carries that out.

    Raises:
        StoreBusy: that takes longer than ``SALIENT_WAIT_S`` allows.
    """
    begun, longest = time.monotonic(), patience()
    watched: tuple[str, bytes] | None = None
    since, poll, told = begun, FIRST_POLL_S, False
    while True:
        known = load_snapshot(location, known=known)
        if known.plan is None or holds_turn(location, known.plan.id):
            return known
        plan_id = known.plan.id
        content, meta = _look(location, plan_id)
        now = time.monotonic()
        if watched != (plan_id, content):
            watched, since = (plan_id, content), now
        said = _decode(content)
        if meta is None or _is_free(said) or now - since > _promised(said):
            _take_over(location, known, meta)
            continue
        name = str(said.get("name") or "another process")
        if now - begun >= longest:
            raise StoreBusy(
                f"{location.address}: {name} has a change under way for more than {longest:g} s"
                " (SALIENT_WAIT_S); try again when that has ended"
            )
        if not told and now - begun > WAIT_IN_SILENCE_S:
            told = True
            logger.warning("waiting for %s, under way by %s", location.address, name)
        time.sleep(min(poll, max(0.0, longest - (now - begun))))
        poll = min(2 * poll, LONGEST_POLL_S, _promised(said) / RENEWALS)


def _take_over(location: ObjectLocation, known: Snapshot, lease: Meta | None) -> None:
    """Take the turn of the plan of `known`, unless that is over or another process was first."""
    assert known.plan is not None
    plan_id = known.plan.id
    if not take_turn(location, plan_id, lease):
        return
    try:
        now = load_snapshot(location, known=known)
    except BaseException:
        end_turn(location, plan_id, say=True)
        raise
    if now.plan is None or now.plan.id != plan_id:
        end_turn(location, plan_id)
        location.delete([lease_path(plan_id)])


def _look(location: ObjectLocation, plan_id: str) -> tuple[bytes, Meta | None]:
    try:
        return location.get(lease_path(plan_id))
    except FileNotFoundError:
        return b"", None


def _lease(holder: str, count: int) -> bytes:
    """What a lease says; without a holder it is nobody's."""
    process = os.getpid()
    said = {
        "holder": holder,
        "count": count,
        "lease_s": lease_s(),
        "name": f"process {process} on {os.uname().nodename}",
        "machine": _machine(),
        "process": process,
        "started": _started(process),
    }
    return json.dumps(said).encode()


def _decode(content: bytes) -> dict[str, Any]:
    """What a lease says; nothing if it is damaged, so that it lapses."""
    with contextlib.suppress(ValueError):
        said = json.loads(content or b"{}")
        if isinstance(said, dict):
            return said
    return {}


def _promised(said: dict[str, Any]) -> float:
    """How long its holder may say nothing: as its own settings have it."""
    seconds = said.get("lease_s")
    if isinstance(seconds, (int, float)) and 0 < seconds < float("inf"):
        return float(seconds)
    return lease_s()


def _is_free(said: dict[str, Any]) -> bool:
    """Whether it is nobody's: released, or of a process of this machine that is gone."""
    if said.get("holder") == "":
        return True
    process, machine = said.get("process"), _machine()
    if not machine or said.get("machine") != machine or type(process) is not int:
        return False
    return _started(process) != said.get("started")


def _machine() -> str:
    """This start of this machine, and what numbers its processes; "" where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # containers number their own
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process was started, in ticks since the machine was; None if it is gone."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def _forget_after_fork() -> None:
    # The thread stays with the parent, and so does the turn.
    global _lock
    _lock = threading.RLock()
    _turns.clear()


def _end_all() -> None:
    for turn in list(_turns.values()):
        turn.end(say=True)


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_end_all)
