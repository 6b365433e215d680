"""The verbs of a bucket, on real servers and over faults of the network between."""

from __future__ import annotations

import os
import pickle
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

from store.disk import Meta, ObjectChanged, ObjectLocation, check_conditions, new_writer, objects
from store.disk import storage as storage_module
from store.errors import SalientError, StoreBusy, StoreInputError
from tests.builders.buckets import (
    KEY_ID,
    SECRET,
    BucketServer,
    serve_azure,
    set_environment,
)
from tests.builders.faults import Fault, FaultProxy

SOON = {"allow_http": True, "retry_timeout_s": 2.0}
"""So that what never works is told soon."""
Places = Callable[[], ObjectLocation]


@pytest.fixture(scope="module", params=["s3", "gs", "az", "memory"])
def server(request: pytest.FixtureRequest) -> Iterator[BucketServer | None]:
    """Each server that is here; None stands for the memory of this process."""
    pytest.importorskip("obstore", reason="buckets need obstore: salient-neurons[cloud]")
    with ExitStack() as stack:
        if request.param == "s3":
            yield request.getfixturevalue("bucket_server")
        elif request.param == "gs":
            yield request.getfixturevalue("gcs_server")
        elif request.param == "memory":
            yield None
        elif shutil.which("azurite-blob") is None:
            pytest.skip("az:// needs azurite-blob in PATH: npm install azurite")
        else:
            yield stack.enter_context(serve_azure())


@pytest.fixture
def anywhere(
    server: BucketServer | None, memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> ObjectLocation:
    """An empty folder of each server in turn."""
    if server is None:
        return ObjectLocation(memory_bucket)
    set_environment(monkeypatch, server.environment())
    return ObjectLocation(server.new_bucket(), SOON)


@pytest.fixture
def faulty(
    server: BucketServer | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ObjectLocation, FaultProxy]]:
    """The same, behind a proxy."""
    if server is None:
        pytest.skip("there is no network in memory")
    with FaultProxy(server.endpoint) as proxy:
        set_environment(monkeypatch, server.environment(proxy.endpoint))
        yield ObjectLocation(server.new_bucket(), SOON), proxy


def paths(found: Iterator[Meta]) -> list[str]:
    return [one.path for one in found]


# -- the verbs ------------------------------------------------------------------------------------


def test_what_is_written_is_there_whole_under_its_name(anywhere: ObjectLocation) -> None:
    """Also with the characters that partitions and posts' languages bring, and none at all."""
    names = ["a", "date=2026-11-30/part é+1%.parquet", "date=2026-11-30/b c", "empty", "z/y/x"]
    for name in names:
        content = b"" if name == "empty" else name.encode()
        written = anywhere.put(name, [content[:2], memoryview(content)[2:]])
        there = anywhere.head(name)
        assert (there.path, there.size, there.etag) == (name, len(content), written.etag)
        assert anywhere.get(name) == (content, there)
    assert paths(anywhere.list()) == sorted(names)
    assert paths(anywhere.list("date=2026-11-30")) == sorted(names[1:3])
    assert paths(anywhere.list(after="date=2026-11-30/b c")) == sorted(names)[2:]
    assert paths(anywhere.child("z").list()) == ["y/x"]
    assert anywhere.names("") == ["a", "date=2026-11-30", "empty", "z"]
    anywhere.copy("a", "z/a")
    assert anywhere.read("z/a") == b"a"
    anywhere.put("a", b"another")
    assert anywhere.read("a") == b"another"


@pytest.mark.parametrize(
    ("page", "number"), [(10, 25), pytest.param(1000, 1100, marks=pytest.mark.slow)]
)
def test_more_objects_than_one_answer_lists_are_all_there(
    bucket: str,
    memory_bucket: str,
    fault_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
    number: int,
) -> None:
    """And a thousand cost one request."""
    monkeypatch.setattr(objects, "PAGE", page)
    for address, requests in ((bucket, number // page + 1), (memory_bucket, 0)):
        place = ObjectLocation(address, SOON)
        names = [f"{one:05d}" for one in range(number)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name, place=place: place.put(name, b"."), names))  # type: ignore[misc]
        fault_proxy.reset_counts()
        assert paths(place.list()) == names
        assert fault_proxy.requests["GET"] <= requests + 1
        last = page - 3
        assert paths(place.list(after=names[last])) == names[last + 1 :]


def test_ranges_are_what_was_asked_and_end_where_the_object_ends(anywhere: ObjectLocation) -> None:
    content = bytes(range(256)) * 40
    etag = anywhere.put("x", content).etag
    assert anywhere.read_range("x", 10, 300, etag=etag) == content[10:300]
    assert anywhere.read_range("x", 10_200, 99_999) == content[10_200:]
    assert anywhere.read_range("x", 7, 7) == b""
    offsets = [5000, 3, 9, 5008, 10_239]
    buffers = [np.zeros(size, np.uint8) for size in (8, 6, 2, 100, 1)]
    assert anywhere.read_ranges("x", offsets, buffers) == len(content)
    for at, buffer in zip(offsets, buffers, strict=True):
        assert buffer.tobytes() == content[at : at + len(buffer)]
    short = [np.zeros(10, np.uint8), np.zeros(10, np.uint8)]
    assert anywhere.read_ranges("x", [0, 10_235], short) == len(content)
    assert short[0].tobytes() == content[:10]
    got = anywhere.fetch("x", [0, 100, 10_200], [10, 120, 10_240])
    assert [bytes(one) for one in got] == [content[:10], content[100:120], content[10_200:]]


def test_an_object_that_changed_while_it_was_read_is_noticed(anywhere: ObjectLocation) -> None:
    etag = anywhere.put("x", b"first").etag
    anywhere.put("x", b"other")
    with pytest.raises(ObjectChanged, match="x: changed while it was read"):
        anywhere.read_range("x", 0, 3, etag=etag)


def test_what_is_missing_is_said_and_deleting_it_does_no_harm(anywhere: ObjectLocation) -> None:
    asks: list[Callable[[], object]] = [
        partial(anywhere.head, "no"),
        partial(anywhere.get, "no"),
        partial(anywhere.read_range, "no", 0, 1),
        partial(anywhere.read_ranges, "no", [0, 9], [np.zeros(1, np.uint8)] * 2),
        partial(anywhere.copy, "no", "other"),
    ]
    for ask in asks:
        with pytest.raises(FileNotFoundError, match="no: there is no such object"):
            ask()
    assert paths(anywhere.list("nothing")) == anywhere.names("nothing") == []
    there = [f"x{number}" for number in range(5)]
    for name in there:
        anywhere.put(name, b".")
    anywhere.delete(["x0", "missing", "x1", "gone", "x2", "x3"])
    assert paths(anywhere.list()) == ["x4"]
    anywhere.delete([])
    anywhere.delete(["x0"])


def test_a_changed_object_is_noticed_on_servers_that_ignore_conditions_of_reads(
    faulty: tuple[ObjectLocation, FaultProxy],
) -> None:
    place, proxy = faulty
    if place.address.startswith("az"):
        pytest.skip("Azure's signature covers the conditions")
    etag = place.put("x", b"first").etag
    place.put("x", b"other")
    proxy.plan(Fault("strip", times=None))
    with pytest.raises(ObjectChanged):
        place.read_range("x", 0, 3, etag=etag)


# -- writing on a condition -----------------------------------------------------------------------


def test_of_eight_that_create_one_wins_and_its_content_stays(anywhere: ObjectLocation) -> None:
    def write(name: str, writer: int) -> bool:
        return anywhere.create(name, b"writer %d" % writer)

    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            won = list(pool.map(partial(write, f"{number}"), range(8)))
            assert won.count(True) == 1
            assert anywhere.read(f"{number}") == b"writer %d" % won.index(True)


def test_only_what_is_as_it_was_found_is_replaced(anywhere: ObjectLocation) -> None:
    assert not anywhere.replace("x", b"0", Meta("x", 1, '"0"', 0.0, "1"))
    assert anywhere.create("x", b"1")
    first = anywhere.head("x")
    assert anywhere.replace("x", b"2", first)
    assert not anywhere.replace("x", b"3", first)
    assert anywhere.read("x") == b"2"
    (listed,) = anywhere.list()
    assert anywhere.replace("x", b"4", anywhere.head("x")) and anywhere.read("x") == b"4"
    assert not anywhere.replace("x", b"5", listed)


def test_a_server_that_holds_to_conditions_is_taken(anywhere: ObjectLocation) -> None:
    check_conditions(anywhere)
    assert paths(anywhere.list()) == []


@pytest.mark.parametrize("ignored", ["if-none-match", "if-match"])
def test_a_server_that_ignores_conditions_is_refused(
    faulty: tuple[ObjectLocation, FaultProxy], ignored: str
) -> None:
    place, proxy = faulty
    if place.address.startswith("az"):
        pytest.skip("Azure's signature covers the conditions")
    proxy.plan(Fault("strip", times=None, strips=(ignored, "x-goog-if-generation-match")))
    with pytest.raises(StoreInputError, match=r"ignores conditions.*nothing can be written there"):
        check_conditions(place)
    assert paths(place.list()) == []


# -- faults between -------------------------------------------------------------------------------


@pytest.mark.parametrize("do", ["lose", "reset"])
def test_a_create_whose_answer_is_lost_is_the_writers_own(
    faulty: tuple[ObjectLocation, FaultProxy], do: str
) -> None:
    """And only the writer's own: who comes second while it is lost, hears so."""
    place, proxy = faulty
    proxy.plan(Fault(do, method="PUT", key="mine", times=2))
    assert place.create("mine", b"mine")
    assert place.read("mine") == b"mine"
    assert not place.create("mine", b"another's")
    proxy.plan(Fault(do, method="PUT", key="mine"))
    assert not place.create("mine", b"another's again")
    found = place.head("mine")
    proxy.plan(Fault(do, method="PUT", key="mine"))
    assert place.replace("mine", b"2", found)
    proxy.plan(Fault(do, method="PUT", key="mine"))
    assert not place.replace("mine", b"3", found)
    assert place.read("mine") == b"2"
    proxy.plan(Fault(do, method="PUT|DELETE|POST"), Fault(do, method="GET"))
    place.put("other", b"1")
    place.delete(["mine"])
    assert paths(place.list()) == ["other"]
    assert proxy.faults[do] >= 7


def test_an_answer_that_comes_after_the_next_attempt_changes_nothing(
    faulty: tuple[ObjectLocation, FaultProxy],
) -> None:
    """Of two writers, the first one's answer takes longer than it waits: one of them wins."""
    place, proxy = faulty
    impatient = ObjectLocation(place.address, SOON | {"request_timeout_s": 0.2})
    proxy.plan(Fault("delay", method="PUT", key="slow", seconds=0.6))
    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(lambda text: impatient.create("slow", text), (b"a", b"b")))
    assert won.count(True) == 1
    assert place.read("slow") == (b"a", b"b")[won.index(True)]


def test_racing_creates_over_lost_answers_have_one_winner_each(
    faulty: tuple[ObjectLocation, FaultProxy],
) -> None:
    place, proxy = faulty
    for skip in range(0, 30, 3):
        do = ("lose", "reset", "lose", "answer")[skip % 4]
        proxy.plan(Fault(do, method="PUT", skip=skip))

    def write(number: int, writer: int) -> bool:
        while True:
            try:
                return place.create(f"{number}", b"writer %d" % writer)
            except StoreBusy:  # which says: run it again
                pass

    with ThreadPoolExecutor(8) as pool:
        for number in range(4):
            won = list(pool.map(partial(write, number), range(8)))
            assert won.count(True) == 1, number
            assert place.read(f"{number}") == b"writer %d" % won.index(True)
    assert sum(proxy.faults.values()) == 10


def test_racing_replaces_over_lost_answers_lose_and_double_nothing(
    faulty: tuple[ObjectLocation, FaultProxy],
) -> None:
    """Whose answer was lost and whose object was then replaced finds itself in what is there."""
    place, proxy = faulty
    place.create("list", b"begin")
    for skip in range(2, 18, 2):
        proxy.plan(Fault(("lose", "reset")[skip % 4 // 2], method="PUT", skip=skip))

    def add(writer: str) -> None:
        for number in range(3):
            mine = f"{writer}-{number}".encode()
            while True:
                content, found = place.get("list")
                if mine in content.split() or place.replace("list", content + b" " + mine, found):
                    break

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, [new_writer() for _ in range(6)]))
    words = place.read("list").split()
    assert len(words) == len(set(words)) == 19


@pytest.mark.parametrize("do", ["cut", "reset", "answer"])
def test_reads_go_on_where_they_were_broken_off(
    faulty: tuple[ObjectLocation, FaultProxy], do: str
) -> None:
    place, proxy = faulty
    content = np.random.default_rng(0).bytes(1_000_000)
    place.put("x", content)
    for status in (503, 429):
        proxy.plan(Fault(do, method="GET", times=2, status=status))
        assert place.read("x") == content
        proxy.plan(Fault(do, method="GET", times=2, status=status))
        assert place.read_range("x", 1000, 900_000) == content[1000:900_000]
        proxy.plan(Fault(do, method="GET", times=3, status=status))
        first, second = place.fetch("x", [0, 500_000], [10_000, 999_999])
        assert (bytes(first), bytes(second)) == (content[:10_000], content[500_000:999_999])
        proxy.plan(Fault(do, method="GET|HEAD", times=2, status=status))
        assert paths(place.list()) == ["x"] and place.size("x") == len(content)
    assert proxy.faults[do] == 18


def test_a_large_object_survives_faults_of_its_parts(
    faulty: tuple[ObjectLocation, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, proxy = faulty
    monkeypatch.setattr(objects, "SINGLE_PUT_BYTES", 2**20)
    monkeypatch.setattr(objects, "PART_BYTES", 5 * 2**20)
    content = np.random.default_rng(0).bytes(5 * 2**20 + 2**16)
    for skip, do in enumerate(("lose", "reset", "answer", "lose")):  # begun, two parts, ended
        proxy.plan(Fault(do, method="PUT|POST", key=f"x{skip}", skip=skip))
        assert place.put(f"x{skip}", content).size == len(content)
        assert place.read(f"x{skip}") == content
    assert not place.create("x0", content[::-1])


# -- what is said ---------------------------------------------------------------------------------


def test_a_server_that_stays_busy_ends_in_an_error_that_says_what_to_do(
    faulty: tuple[ObjectLocation, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, proxy = faulty
    monkeypatch.setattr(objects, "_pause", lambda number: None)
    place.put("x", b"1")
    found = place.head("x")
    proxy.plan(Fault("answer", status=503, times=None))
    asks: list[Callable[[], object]] = [
        partial(place.get, "x"),
        partial(place.put, "x", b"2"),
        partial(place.create, "y", b"2"),
        partial(place.replace, "x", b"2", found),
        partial(place.delete, ["x"]),
        lambda: list(place.list()),
    ]
    fast = ObjectLocation(place.address, SOON | {"retry_timeout_s": 0.1})
    place.options.update(fast.options)
    for ask in asks:
        with pytest.raises(StoreBusy, match=r"cannot be reached now .*run it again") as raised:
            ask()
        assert place.address in str(raised.value) and "\n" not in str(raised.value)
    proxy.clear()
    assert place.get("x")[0] == b"1"  # nothing was half done


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, StoreBusy) for status in (408, 409, 429, 500, 502, 504)),
        *((status, StoreInputError) for status in (400, 401, 403, 405)),
    ],
)
def test_each_refusal_is_of_its_kind(
    faulty: tuple[ObjectLocation, FaultProxy],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[SalientError],
) -> None:
    """What may pass is busy, what a person must mend is input; a conflict of writers passes."""
    place, proxy = faulty
    monkeypatch.setattr(objects, "_pause", lambda number: None)
    place.options["retry_timeout_s"] = 0.1
    proxy.plan(Fault("answer", status=status, times=None))
    for ask in (partial(place.get, "x"), partial(place.create, "x", b"1")):
        with pytest.raises(kind) as raised:
            ask()
        assert type(raised.value) is kind and "\n" not in str(raised.value)
    proxy.clear()
    if kind is StoreBusy:
        proxy.plan(Fault("answer", status=status))
        assert place.create("x", b"1")


@pytest.mark.parametrize("code", ["RequestTimeout", "ExpiredToken", "InvalidToken"])
def test_a_code_counts_where_the_status_says_little(
    faulty: tuple[ObjectLocation, FaultProxy], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """S3 says 400 of connections that stall, which pass, and of credentials that have run out."""
    place, proxy = faulty
    monkeypatch.setattr(objects, "_pause", lambda number: None)
    place.put("x", b"1")
    proxy.plan(Fault("answer", status=400, code=code, times=2))
    if code == "RequestTimeout":
        assert place.read("x") == b"1"
    else:
        with pytest.raises(StoreInputError, match=r"access refused.*check the credentials"):
            place.read("x")


def test_a_missing_bucket_and_wrong_places_are_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = ObjectLocation("s3://no-such-bucket-here/data", SOON)
    for ask in (partial(nowhere.get, "x"), partial(nowhere.put, "x", b"1")):
        with pytest.raises(StoreInputError, match="there is no bucket s3://no-such-bucket-here"):
            ask()
    with pytest.raises(StoreInputError, match="there is no bucket"):
        list(nowhere.list())
    with pytest.raises(StoreInputError, match=r"'\.\./other': parts of a key"):
        ObjectLocation(bucket).head("../other")
    odd = ObjectLocation(bucket)
    odd.put("a\\b.jsonl", b"1")  # on a bucket a backslash is a character like any other
    assert [one.path for one in odd.list()] == ["a\\b.jsonl"] and odd.read("a\\b.jsonl") == b"1"
    monkeypatch.setattr(objects, "_pause", lambda number: None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreBusy, match="check the network and the endpoint"):
        ObjectLocation(bucket, SOON | {"retry_timeout_s": 0.1}).get("x")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreInputError, match=r"allow_http = true in \[storage\]"):
        ObjectLocation(bucket, {"retry_timeout_s": 0.1}).get("x")


def test_no_error_and_no_pickle_holds_a_secret(
    bucket: str, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is raised, with all that a traceback prints, and of what travels to a worker."""
    monkeypatch.setattr(objects, "_pause", lambda number: None)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-the-tests")
    secrets = (KEY_ID, SECRET, "token-of-the-tests", "Signature=")
    place = ObjectLocation(bucket, SOON | {"retry_timeout_s": 0.1})
    said = [repr(place), pickle.dumps(place).decode("latin-1"), repr(vars(place))]
    for fault in (
        *(Fault("answer", status=status, times=None) for status in (403, 400, 404, 409, 503)),
        *(Fault(do, times=None) for do in ("lose", "reset")),
    ):
        fault_proxy.clear()
        fault_proxy.plan(fault)
        for ask in (
            partial(place.get, "x"),
            partial(place.create, "x", b"1"),
            partial(place.delete, ["x"]),
        ):
            try:
                ask()
            except (SalientError, FileNotFoundError):
                said.append(traceback.format_exc())
    for address in (f"s3://{KEY_ID}:{SECRET}@bucket/x", f"s3://{SECRET}@bucket/x"):
        with pytest.raises(StoreInputError) as raised:
            ObjectLocation(address)
        said.append(str(raised.value))
    assert len(said) > 15
    assert not [text for text in said if any(secret in text for secret in secrets)]


def test_a_location_finds_credentials_where_it_arrives(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "_options", dict(SOON))
    sent = pickle.dumps(ObjectLocation(bucket))
    monkeypatch.setattr(storage_module, "_options", {})
    arrived = pickle.loads(sent)  # noqa: S301  # our own bytes
    arrived.put("x", b"1")
    assert arrived.options == SOON and arrived.read("x") == b"1"


def test_what_passes_is_counted(fault_proxy: FaultProxy, bucket: str) -> None:
    """The proxy's figures, which benchmarks take, are those of the bodies."""
    place = ObjectLocation(bucket, SOON)
    place.put("x", bytes(5000))
    fault_proxy.reset_counts()
    place.read_range("x", 100, 1100)
    place.put("y", bytes(70))
    assert fault_proxy.requests == Counter(GET=1, PUT=1)
    assert fault_proxy.sent["GET"] == 1000 and fault_proxy.received["PUT"] == 70
    assert fault_proxy.log[0].range == "bytes=100-1099"
    assert os.environ["AWS_ENDPOINT_URL"] == fault_proxy.endpoint


def test_a_process_forked_after_the_client_began_is_told_so(bucket: str) -> None:
    ObjectLocation(bucket).put("one", b"1")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            said = repr(ObjectLocation(bucket).read("one"))
        except StoreInputError as error:
            said = str(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert "spawn or forkserver" in os.read(reading, 10_000).decode()
    os.close(reading), os.close(writing)
