"""Records of account archives, which people get from Twitter of themselves: files of JavaScript,
``window.YTD.KIND.part0 = [{"KIND": {…}}, …]``, of which few hold posts.

Long posts are read; likes, messages, followers, advertisements and the like are notices.
"""

from __future__ import annotations

from pipeline.texts.posts import (
    BadRecord,
    Inner,
    Notice,
    Post,
    Record,
    RecordReader,
    digits_id,
    single,
    string,
)
from pipeline.texts.twitter import tweet_time

KINDS = frozenset(
    {
        "account", "accountCreationIp", "accountLabel", "accountSuspension", "accountTimezone",
        "ad", "adsRevenueSharing", "ageMeta", "appInstalledApplication", "article",
        "articleMetadata", "audioVideoCallsInDm", "blocking", "branchLink", "catalogItem",
        "commerceCatalog", "communityNote", "communityNoteBatSignal", "communityNoteRating",
        "communityNoteTombstone", "connectedApplication", "contact", "device", "deviceToken",
        "dmConversation", "dmMute", "emailAddressChange", "expandedProfile", "follower",
        "following", "grokChatItem", "ipAudit", "keyRegistryData", "like", "moment", "muting",
        "niDeviceResponse", "p13nData", "periscopeAccountInformation", "periscopeBanInformation",
        "periscopeBroadcastMetadata", "periscopeCommentsMadeByUser", "periscopeExpiredBroadcasts",
        "periscopeFollowers", "periscopeProfileDescription", "phoneNumber", "productDrop",
        "productSet", "professionalData", "profile", "protectedHistory", "replyPrompt",
        "savedSearch", "screenNameChange", "shopModule", "shopifyAccount", "smartblocking",
        "spacesMetadata", "sso", "syncedContact", "tweetDeckData", "tweetdeck", "twitterArticle",
        "twitterArticleMetadata", "twitterCircle", "twitterCircleMember", "twitterShop",
        "userInteractionsData", "userLinkClick", "userLinkClicks", "userListInfo", "verified",
        "verifiedOrganization",
    }
)  # fmt: skip
"""What an archive calls its records that are no posts."""
_HEADER = frozenset(("tweet_id", "user_id", "created_at", "deleted_at"))


def _is_archived(value: Record) -> bool:
    return isinstance(value.get("tweet"), dict)


def _is_header(value: Record) -> bool:
    """``tweet-headers.js``: which tweets there are."""
    tweet = value.get("tweet")
    return len(value) == 1 and isinstance(tweet, dict) and "tweet_id" in tweet.keys() <= _HEADER


def _note_tweet(value: Record) -> Post:
    note = value["noteTweet"]
    id = digits_id(note, "noteTweetId", "id")
    text = string(note.get("core"), "text")
    if text is None:
        raise BadRecord("no text")
    created_at = tweet_time(id, note.get("createdAt"))
    return Post(id=id, text=text, created_at=created_at, lang=None, author_id=None)


def _is_other(value: Record) -> bool:
    if len(value) == 1:
        ((kind, part),) = value.items()
        return kind in KINDS and isinstance(part, dict)
    return False


def _other(value: Record) -> Notice:
    return Notice(f"archive: {next(iter(value))}")


def _is_manifest(value: Record) -> bool:
    user = value.get("userInfo")
    return isinstance(user, dict) and "accountId" in user


FIRST = (
    RecordReader(
        "archived note", lambda value: isinstance(value.get("noteTweet"), dict), single(_note_tweet)
    ),
    RecordReader("archived kind", _is_other, single(_other)),
    RecordReader("archive's manifest", _is_manifest, lambda value: (Notice("archive: manifest"),)),
)
READERS = (
    RecordReader("archived header", _is_header, lambda value: (Notice("archive: tweet header"),)),
    RecordReader("archive", _is_archived, lambda value: (Inner(value["tweet"]),)),
)
