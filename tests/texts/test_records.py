"""Posts of every network and tool: what is a post, what a notice, and what is neither."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from pipeline.texts.framing import Unreadable
from pipeline.texts.posts import PLATFORMS, Notice, Post
from pipeline.texts.records import READERS, read_record, read_shaped
from tests.builders.dumps import dump, fuzz, jsonl, mutated, rows, totals
from tests.builders.posts import (
    FIRST,
    SHAPES,
    START,
    TEXTS,
    activity,
    answer,
    at_uri,
    create,
    did,
    html,
    iso,
    item,
    jetstream,
    note,
    result,
    sky_post,
    sky_record,
    snscraped,
    status,
    stored,
    tweet,
    twinted,
    v2_tweet,
)

LONG = "a long tale of tea and rain " * 8 + "with an end"
CUT = LONG[:100] + "…"


def one(value: Any) -> Post:
    (post,) = read_record(value)
    assert isinstance(post, Post), post
    return post


def kinds(value: Any) -> list[str]:
    """Of each part: the notice's kind, ``post``, or why it is bad."""
    return [
        item.kind if isinstance(item, Notice) else "post" if isinstance(item, Post) else item.reason
        for item in read_record(value)
    ]


# --- all shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_a_post_of_every_shape(name: str) -> None:
    for number, text in enumerate(TEXTS):
        ((found, post),) = read_shaped(json.loads(json.dumps(SHAPES[name](number))))
        assert found == name
        assert isinstance(post, Post)
        assert post.text == text
        assert post.created_at == START + 60 * number
        assert post.lang == (None if name in ("reddit", "archived note") else "en")
        assert post.platform in PLATFORMS
        assert not post.is_retweet
        if post.platform == "twitter":
            assert post.id == str(FIRST + number)
        if name != "archived note":
            assert post.author_id is not None and str(70 + number) in post.author_id


def test_every_row_of_the_table_has_an_example() -> None:
    named = {part for name in SHAPES for part in name.split(" in ")}
    notices = {
        "v1.1 notice", "archived kind", "archived header", "archive's manifest", "gnip message",
        "bluesky missing", "bluesky record", "bulk action", "v2 page without tweets", "id and text",
    }  # fmt: skip
    assert {reader.name for reader in READERS} == named | notices


def test_shapes_are_counted_per_block(tmp_path: Path) -> None:
    records = [tweet(0), status(1), status(2), {"delete": {"status": {"id": 1}}}, {"x": 1}]
    (block,) = dump(tmp_path / "a", jsonl(records))
    shapes = {name: count for name, count in block.counts.items() if name.startswith("shape/")}
    assert shapes == {"shape/v1.1 tweet": 1, "shape/mastodon status": 2, "shape/v1.1 notice": 1}
    assert block.table["platform"].to_pylist() == ["twitter", "mastodon", "mastodon"]


def test_keep_alives() -> None:
    assert kinds(None) == ["keep-alive"]


# --- wrappers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_any_shape_inside_a_wrapper(name: str) -> None:
    value = SHAPES[name](1)
    plain = list(read_record(value))
    for wrapped in (
        {"_index": "t", "_source": value},
        {"hits": {"total": 1, "hits": [{"_id": "x", "_source": value}]}},
        {"_id": {"$oid": "0" * 24}, **value},
        {"results": [value]},
    ):
        assert list(read_record(wrapped)) == plain


def test_wrappers_around_wrappers_are_few() -> None:
    value: Any = tweet(0)
    for _ in range(4):
        value = {"_source": value}
    assert one(value).id == str(FIRST)
    for _ in range(400):
        value = {"_source": value}
    assert "records around one another" in kinds(value)[0]


def test_mongodb() -> None:
    assert one(stored(2)).created_at == START + 120
    milliseconds = {"$date": {"$numberLong": str(1000 * START)}}
    assert one({**stored(0), "created_at": milliseconds}).created_at == START
    number = {"_id": {"$numberLong": str(FIRST + 3)}, "text": "hi", "user": {"id": 5}}
    assert one(number).id == str(FIRST + 3)
    assert one({"_id": str(FIRST), "text": "hi"}).id == str(FIRST)
    assert kinds({"_id": {"$oid": "0" * 24}, "text": "hi", "user": {}}) == ["no id"]
    deep: Any = 1
    for _ in range(900):
        deep = {"a": deep}
    assert one({**stored(1), "deep": deep, "user": {"id": {"$numberInt": "7"}}}).author_id == "7"


def test_bulk_files() -> None:
    action = {"index": {"_index": "tweets", "_id": "1"}}
    assert [kinds(value) for value in (action, tweet(0))] == [["bulk action"], ["post"]]


def test_maps_by_id() -> None:
    without_id = {"text": "hi", "user": {"id": 5}}
    found = list(read_record({"12": without_id, "13": {**without_id, "text": "ho"}}))
    assert [post.id for post in found if isinstance(post, Post)] == ["12", "13"]
    assert kinds({at_uri(n): sky_post(n) for n in range(3)}) == ["post"] * 3
    assert kinds({"12": without_id, "13": None, "14": "x"}) == [
        "post",
        "keep-alive",
        "not a tweet but a JSON str",
    ]
    assert kinds({"12": {"x": 1}}) == ["not a tweet: its keys are x, id"]
    assert kinds({"config": {"x": 1}}) == ["not a tweet: its keys are config"]


def test_pages_of_any_shape() -> None:
    mixed = {"results": [tweet(0), status(1), None, 5, activity(2)], "next": "x"}
    assert kinds(mixed) == ["post", "post", "keep-alive", "not a tweet but a JSON int", "post"]
    assert kinds({"ancestors": [status(0)], "descendants": [status(1), status(2)]}) == ["post"] * 3
    assert kinds({"accounts": [], "statuses": [status(0)], "hashtags": []}) == ["post"]
    assert kinds({"data": [status(0), status(1)]}) == ["post", "post"]
    assert kinds({"data": [result(0), result(1)]}) == ["post", "post"]
    assert kinds({"feed": [], "cursor": "x"}) == ["page without tweets"]


# --- GNIP -----------------------------------------------------------------------------------------


def test_gnip_has_full_texts() -> None:
    long = one(activity(0, body=CUT, long_object={"body": LONG}))
    assert (long.text, long.found) == (LONG, "long")
    repeated = {"objectType": "activity", "body": CUT, "long_object": {"body": LONG}}
    share = one(activity(1, verb="share", body=f"RT @a: {CUT}", object=repeated))
    assert (share.text, share.found, share.is_retweet) == (LONG, "recovered", True)
    whole = one(activity(1, verb="share", body="RT @a: hi", object={"body": "hi"}))
    assert (whole.text, whole.found) == ("hi", "")
    bare = one(activity(1, verb="share", body=f"RT @a: {CUT}", object={"id": "x"}))
    assert (bare.text, bare.found) == (f"RT @a: {CUT}", "cut")


def test_gnip_languages_and_people() -> None:
    value = activity(0, actor={"id": "id:twitter.com:x"}, gnip={"language": {"value": "fr"}})
    del value["twitter_lang"]
    assert (one(value).lang, one(value).author_id) == ("fr", None)
    assert one({**value, "gnip": {"language": "de"}}).lang == "de"
    assert one({**value, "gnip": None, "postedTime": None}).lang is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"info": {"message": "Replay Request Completed", "activity_count": 4}}, "info"),
        ({"error": {"message": "Forced Disconnect", "sent": "x"}}, "error"),
        ({"warn": {"message": "slow"}}, "warn"),
        (activity(0, verb="delete"), "delete"),
        (activity(0, verb="levitate"), "other"),
        (activity(0, verb=["x"]), "other"),
        (activity(0, id=None), "no id"),
        (activity(0, id="tag:gnip.tumblr.com:2012:x/1/post"), "is of another network"),
        (activity(0, body=None, object=5), "no text"),
    ],
)
def test_gnip_without_a_post(value: Any, expected: str) -> None:
    (found,) = kinds(value)
    assert expected in found


# --- Bluesky --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (jetstream(0, operation="delete", record=None), "delete"),
        (jetstream(0, operation="update"), "update"),
        (jetstream(0, operation=["create"]), "other"),
        (jetstream(0, collection="app.bsky.feed.like"), "like"),
        (jetstream(0, collection="app.bsky.feed.repost"), "repost"),
        (jetstream(0, collection="app.bsky.graph.follow"), "follow"),
        (jetstream(0, collection="com.example.thing"), "other"),
        (jetstream(0, collection=None), "other"),
        ({"did": "did:plc:q", "time_us": 1, "kind": "identity", "identity": {}}, "identity"),
        ({"did": "did:plc:q", "time_us": 1, "kind": "account", "account": {}}, "account"),
        ({"did": "did:plc:q", "time_us": 1, "kind": "new", "new": {}}, "other"),
        (jetstream(0, record=sky_record(0, text=" \n")), "post without text"),
        (jetstream(0, record=sky_record(0, text=None)), "no text"),
        (jetstream(0, record=None), "no text: there is no record of the post"),
        (jetstream(0, rkey=None), "no id: did and rkey make it"),
        (sky_post(0, uri=at_uri(0, "app.bsky.feed.generator")), "post"),
        (
            {"uri": at_uri(0, "app.bsky.feed.like"), "value": {"$type": "app.bsky.feed.like"}},
            "like",
        ),
        ({"uri": at_uri(0), "notFound": True}, "post not shown"),
    ],
)
def test_bluesky_without_a_post(value: Any, expected: str) -> None:
    if expected == "post":
        expected = "other"
    assert kinds(value) == [expected]


def test_the_first_jetstreams() -> None:
    value = jetstream(0)
    value["type"], value["commit"]["type"] = "com", "c"
    del value["kind"], value["commit"]["operation"]
    assert one(value).id == at_uri(0)
    value["commit"]["type"] = "d"
    assert kinds(value) == ["delete"]


def test_bluesky_times_and_languages() -> None:
    assert one(jetstream(0, record=sky_record(0, createdAt="soon"))).created_at == START
    assert one(jetstream(0, record=sky_record(0, langs=[]))).lang is None
    assert one(jetstream(0, record=sky_record(0, langs=["pt-BR", "en"]))).lang == "pt"
    assert one(sky_post(2, record=sky_record(2, createdAt=None))).created_at == START + 120


def test_bluesky_repositories_and_views() -> None:
    listed = {"uri": at_uri(1), "cid": "bafy", "value": sky_record(1)}
    assert (one(listed).id, one(listed).author_id) == (at_uri(1), did(1))
    assert kinds({"records": [listed, listed], "cursor": "x"}) == ["post", "post"]
    assert "without the URI" in kinds(sky_record(0))[0]
    snake = sky_post(2, record={"text": "hi", "created_at": iso(2)}, indexed_at=iso(3))
    assert (one(snake).created_at, one(snake).lang) == (START + 120, None)


def test_bluesky_feeds() -> None:
    reason = {
        "$type": "app.bsky.feed.defs#reasonRepost",
        "by": {"did": did(9)},
        "indexedAt": iso(9),
    }
    plain = {"post": sky_post(0)}
    repost = {"post": sky_post(1), "reason": reason}
    named = {"post": sky_post(1), "reason": {**reason, "uri": at_uri(9, "app.bsky.feed.repost")}}
    pinned = {"post": sky_post(2), "reason": {"$type": "app.bsky.feed.defs#reasonPin"}}
    found = list(read_record({"feed": [plain, repost, named, pinned], "cursor": "x"}))
    assert all(isinstance(post, Post) for post in found)
    facts = [(post.id, post.is_retweet, post.author_id) for post in found if isinstance(post, Post)]
    assert facts == [
        (at_uri(0), False, did(0)),
        (at_uri(1), True, did(1)),
        (at_uri(9, "app.bsky.feed.repost"), True, did(9)),
        (at_uri(2), False, did(2)),
    ]


def test_bluesky_threads() -> None:
    def view(number: int, **extra: Any) -> dict[str, Any]:
        return {"$type": "app.bsky.feed.defs#threadViewPost", "post": sky_post(number), **extra}

    blocked = {"$type": "app.bsky.feed.defs#blockedPost", "uri": at_uri(7), "blocked": True}
    thread = view(1, parent=view(0), replies=[view(2, replies=[view(3)]), blocked])
    assert Counter(kinds({"thread": thread})) == Counter({"post": 4, "post not shown": 1})
    deep = view(0)
    for number in range(300):
        deep = view(number, replies=[deep])
    assert kinds({"thread": deep}) == ["post"] * 301


# --- Mastodon -------------------------------------------------------------------------------------


def test_boosts_have_the_text_that_they_repeat() -> None:
    boost = one(status(1, content="", language=None, reblog=status(2)))
    assert (boost.id, boost.text) == (status(1)["id"], TEXTS[2])
    assert (boost.is_retweet, boost.lang, boost.author_id) == (True, "en", "71")


def test_content_warnings_are_no_part_of_the_text() -> None:
    assert one(status(0, spoiler_text="trains, mornings")).text == TEXTS[0]


def test_ids_of_other_servers() -> None:
    assert one(status(0, id="AbCd9xYz")).id == "AbCd9xYz"
    assert one(status(0, id=12)).id == "12"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (status(0, content=""), "post without text"),
        (status(0, content="<p><br></p>"), "post without text"),
        (status(0, content=None), "no text"),
        (status(0, id=None), "no id"),
        (status(0, id=1.5e17), "its digits are lost"),
        (status(0, content="<b>" * 5000 + "x"), "HTML of 5000 tags"),
        ({"event": "delete", "payload": "114"}, "delete"),
        ({"event": "status.update", "payload": json.dumps(status(0))}, "status.update"),
        ({"event": "dance", "payload": "{}"}, "other"),
        ({"event": "update", "payload": '{"id": '}, "payload: not JSON"),
        ({"event": "update", "payload": 5}, "not a tweet but a JSON int"),
    ],
)
def test_mastodon_without_a_post(value: Any, expected: str) -> None:
    (found,) = kinds(value)
    assert expected in found


def test_streams_with_the_status_as_an_object() -> None:
    assert one({"event": "update", "payload": status(0)}).text == TEXTS[0]


# --- ActivityPub ----------------------------------------------------------------------------------


def test_outboxes() -> None:
    announce = {"type": "Announce", "actor": "https://a.example/u", "object": "https://b.example/9"}
    items = [create(0), announce, create(1), {"type": "Like", "object": "https://b.example/9"}, 5]
    box = {"@context": "https://www.w3.org/ns/activitystreams", "type": "OrderedCollection"}
    expected = ["post", "Announce", "post", "Like", "not a tweet but a JSON int"]
    assert kinds({**box, "orderedItems": items}) == expected
    page = {"type": "OrderedCollectionPage", "items": items[:1]}
    assert kinds({**page, "partOf": "x"}) == ["post"]
    assert kinds({**box, "first": page}) == ["post"]
    assert kinds({**box, "first": "https://a.example/outbox?page=1"}) == ["page without posts"]
    assert kinds({**box, "orderedItems": ["https://b.example/9"] * 2}) == ["link", "link"]


def test_notes() -> None:
    found = one(create(0))
    assert found.id == note(0)["id"]
    assert found.author_id == "https://example.social/users/70"
    assert one({"@context": "x", **note(1)}).text == TEXTS[1]
    two = {"de": "<p>Regen</p>", "en": html(2)}
    assert one(create(0, object=note(2, contentMap=two))).lang == "en"
    only_map = note(2, contentMap={"de": "<p>Regen</p>"})
    del only_map["content"]
    assert (one(only_map).text, one(only_map).lang) == ("Regen", "de")
    assert one(note(0, contentMap={"und": html(0)})).lang is None
    assert (
        one(note(0, attributedTo=[{"id": "https://a.example/u"}])).author_id
        == "https://a.example/u"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (create(0, object="https://example.social/1"), "Create"),
        (create(0, object=note(0, type="Question")), "Question"),
        (create(0, object=note(0, type="Spell")), "other"),
        (create(0, object=note(0, content=None, contentMap=None)), "post without text"),
        (create(0, object=note(0, id=None)), "no id"),
        (create(0, type="Update"), "Update"),
        (create(0, type="Announce"), "Announce"),
        ({"type": "Person", "inbox": "x"}, "Person"),
        ({"type": "Tombstone", "@context": "x"}, "Tombstone"),
    ],
)
def test_activities_without_a_post(value: Any, expected: str) -> None:
    assert kinds(value) == [expected]


# --- archives -------------------------------------------------------------------------------------


def test_account_archives() -> None:
    archived = {"id": str(FIRST), "id_str": str(FIRST), "full_text": "hi", "lang": "en"}
    assert one({"tweet": archived}).text == "hi"
    assert kinds({"noteTweet": {"noteTweetId": str(FIRST), "core": {}}}) == ["no text"]
    assert kinds({"noteTweet": {"core": {"text": "x"}}}) == ["no id"]
    for kind in ("like", "follower", "dmConversation", "ad"):
        assert kinds({kind: {"accountId": "1", "fullText": "x"}}) == [f"archive: {kind}"]
    assert kinds({"userInfo": {"accountId": "1"}, "dataTypes": {}}) == ["archive: manifest"]
    header = {"tweet_id": "1", "user_id": "7", "created_at": "Wed Nov 04 09:00:00 +0000 2026"}
    assert kinds({"tweet": header}) == ["archive: tweet header"]
    assert kinds({"other": {"accountId": "1"}}) == ["not a tweet: its keys are other"]


# --- the site's own answers -----------------------------------------------------------------------


def test_answers_of_the_site() -> None:
    cursor = {"entryType": "TimelineTimelineCursor", "value": "x", "cursorType": "Bottom"}
    module = {
        "entryType": "TimelineTimelineModule",
        "items": [{"entryId": f"c-{n}", "item": item(result(n))} for n in (1, 2)],
    }
    people = {"itemContent": {"itemType": "TimelineUser", "user_results": {"result": {}}}}
    entries = [
        item(result(0)),
        item(result(3), promotedMetadata={}),
        module,
        item({"__typename": "TweetTombstone", "tombstone": {}}),
        item({"__typename": "TweetUnavailable"}),
        item({}),
        people,
        cursor,
    ]
    expected = [
        "post", "promoted", "post", "post", "tombstone", "unavailable", "unavailable", "user",
        "cursor",
    ]  # fmt: skip
    assert kinds(answer(*entries)) == expected
    conversation = {"instructions": [{"entries": [{"entryId": "t", "content": item(result(0))}]}]}
    assert kinds({"data": {"threaded_conversation_with_injections_v2": conversation}}) == ["post"]
    pinned = {"instructions": [{"type": "TimelinePinEntry", "entry": {"content": item(result(0))}}]}
    assert kinds({"data": {"user": {"result": {"timeline": pinned}}}}) == ["post"]
    assert kinds({"data": {"tweetResult": {"result": result(0)}}}) == ["post"]
    assert kinds({"data": {"tweetResult": [{"result": result(0)}, {}]}}) == ["post"]
    assert kinds(answer()) == ["page without tweets"]
    empty = {"data": {"home": {"home_timeline_urt": {"instructions": []}}}}
    assert kinds(empty) == ["page without tweets"]
    assert kinds({"data": {"tweets": [{"__typename": {}}]}}) == ["page without tweets"]
    assert kinds({"data": {"x": {"y": 1}}}) == ["not a tweet: its keys are data"]


@pytest.mark.parametrize(
    "value",
    [
        result(0),
        {"result": result(0), "__typename": "x"},
        {"tweet_results": {"result": result(0)}},
        {"entryId": "tweet-1", "content": item(result(0))},
        {"__typename": "TweetWithVisibilityResults", "tweet": result(0)},
        {"rest_id": str(FIRST), "legacy": result(0)["legacy"]},
    ],
)
def test_parts_of_answers(value: Any) -> None:
    post = one(value)
    assert (post.id, post.text, post.author_id) == (str(FIRST), TEXTS[0], "70")


def test_long_and_repeated_tweets_of_answers() -> None:
    long = {"note_tweet": {"note_tweet_results": {"result": {"text": LONG}}}}
    assert (one(result(0, **long)).text, one(result(0, **long)).found) == (LONG, "long")
    for original in (
        result(1, **long),
        {"__typename": "TweetWithVisibilityResults", "tweet": result(1, **long)},
    ):
        retweet = result(0)
        retweet["legacy"] |= {
            "full_text": f"RT @a: {CUT}",
            "retweeted_status_result": {"result": original},
        }
        post = one(answer(item(retweet)))
        assert (post.text, post.found, post.is_retweet) == (LONG, "recovered", True)
        assert post.id == str(FIRST)
    quote = result(0, quoted_status_result={"result": result(1)})
    assert kinds(answer(item(quote))) == ["post"]
    user = {"__typename": "User", "rest_id": "7", "legacy": {"screen_name": "someone"}}
    assert kinds(user) == ["user"]


def test_answers_of_any_depth() -> None:
    value: Any = item(result(0))
    for _ in range(800):
        value = {"content": [value]}
    assert kinds({"data": value}) == ["post"]


def test_global_objects() -> None:
    tweets = {"1": tweet(0, full_text=LONG), "2": tweet(1, retweeted_status_id_str="1")}
    found = list(read_record({"globalObjects": {"tweets": tweets, "users": {}}}))
    assert [post.text for post in found if isinstance(post, Post)] == [LONG, LONG]
    assert kinds({"globalObjects": {"tweets": {}}}) == ["page without tweets"]


# --- scrapers -------------------------------------------------------------------------------------


def test_snscrape() -> None:
    old = snscraped(1, content=TEXTS[1])
    for key in ("_type", "rawContent", "renderedContent"):
        del old[key]
    assert one(old).text == TEXTS[1]
    del old["id"]
    assert one(old).id == str(FIRST + 1)
    rt = one(snscraped(0, rawContent=f"RT @a: {CUT}", retweetedTweet=snscraped(1, rawContent=LONG)))
    assert (rt.text, rt.found, rt.is_retweet) == (LONG, "recovered", True)
    twscraped = snscraped(2, id_str=str(FIRST + 2), user={"id": 72, "id_str": "72"})
    del twscraped["_type"]
    assert one(twscraped).author_id == "72"
    toot = {"_type": "snscrape.modules.mastodon.Toot", "url": "https://m.example/@a/1"}
    found = one({**toot, "content": html(0), "date": iso(0)})
    assert (found.id, found.platform, found.text) == (toot["url"], "mastodon", TEXTS[0])
    channel = {"_type": "snscrape.modules.telegram.TelegramPost", "content": "x", "url": "y"}
    assert "no post of a known network" in kinds(channel)[0]
    gone = {"_type": "snscrape.modules.twitter.Tombstone", "id": 1, "text": "gone"}
    assert kinds(gone) == ["tombstone"]


def test_twint_times() -> None:
    assert one(twinted(1, created_at="2026-11-04 10:00:00 CET")).created_at == START
    assert one(twinted(1, timezone="")).created_at == START + 60
    assert one(twinted(1, retweet=True)).is_retweet


def test_reddit() -> None:
    submission = {"id": "s1", "subreddit": "trains", "title": "On time", "created_utc": 1.0}
    found = one({**submission, "selftext": "At last", "name": "t3_s1", "author": "[deleted]"})
    assert (found.id, found.text, found.author_id) == ("t3_s1", "On time\nAt last", None)
    assert found.created_at == 1
    assert one({**submission, "selftext": "[removed]"}).text == "On time"
    assert kinds({"id": "c", "subreddit": "x", "body": "[deleted]"}) == ["post without text"]


def test_tables_of_texts_are_no_posts() -> None:
    for value in (
        {"id": "a1", "text": "tea", "label": 1},
        {"id": 5, "content": "tea", "account": "someone"},
        {"tweet": "tea", "label": 1},
        {"entries": 3, "message": "tea"},
        {"type": "note", "body": "tea"},
        {"info": "tea", "error": "none"},
        {"results": "tea", "posts": 3},
    ):
        (found,) = read_record(value)
        assert isinstance(found, Unreadable), found


# --- fuzz -----------------------------------------------------------------------------------------


EXAMPLES = [make(number) for number, make in enumerate(SHAPES.values())] + [
    answer(item(result(0)), {"cursorType": "Bottom"}, item({"__typename": "TweetTombstone"})),
    {"type": "OrderedCollection", "orderedItems": [create(0), create(1, type="Announce")]},
    {"feed": [{"post": sky_post(0), "reason": {"$type": "#reasonRepost", "by": {"did": did(1)}}}]},
    {"results": [activity(0, verb="share", object=activity(1)), tweet(2), v2_tweet(3)]},
    {"_id": {"$oid": "0"}, "hits": {"hits": [{"_source": status(1, reblog=status(2))}]}},
    {"thread": {"post": sky_post(0), "parent": {"notFound": True}, "replies": [{"post": {}}]}},
]


@given(value=mutated(EXAMPLES))
@fuzz
def test_mutated_records_of_every_shape(value: Any, tmp_path: Path) -> None:
    items = list(read_record(value))
    assert items
    assert all(isinstance(one, Post | Notice | Unreadable) for one in items)
    blocks = dump(tmp_path / "fuzz", jsonl([tweet(0), value, tweet(1)]))
    assert totals(blocks)["read"] == len(items) + 2
    ids = [row["id"] for row in rows(blocks)]
    assert ids[0] == str(FIRST) and ids[-1] == str(FIRST + 1)
