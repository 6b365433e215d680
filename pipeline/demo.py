"""A made-up, seeded set of labelled tweets: the input of the demo and of many tests.

Nobody wrote these tweets. They are put together from clauses about everyday things, each with a
valence between -1 and 1 that negation, degree, contrast, reported speech and irony change, so that
the same words in another order mean something else; then come hashtags, emoji, typing errors,
retweets, wrong labels and missing ones. The columns are ``id``, ``text``, ``created_at``,
``author`` and the labels ``sentiment`` (negative, neutral, positive), ``intensity`` (0 very
negative … 1 very positive) and ``travel`` (yes, no: is it about getting somewhere).

    write_demo_tweets("demo_tweets.csv")
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pandas as pd

NUM_ROWS = 2000
SEED = 20240229
COLUMNS = ("id", "text", "created_at", "author", "sentiment", "intensity", "travel")
SENTIMENTS = ("negative", "neutral", "positive")

T = TypeVar("T")

_FIRST_SECOND = 1_709_251_200  # 2024-03-01
_NUM_SECONDS = 28 * 86_400
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_NEUTRAL_BELOW = 0.16
_LABEL_NOISE = 0.05
_SENTIMENT_MISSING = 0.03
_INTENSITY_MISSING = 0.06
_REPEATED = 0.03


@dataclass(frozen=True)
class _Clause:
    """Words that say something, and how good it is for the writer, from -1 to 1."""

    words: str
    valence: float


_THINGS = {
    "no": (
        "the new café", "this soup", "my lunch", "the bakery on the corner", "that curry",
        "the coffee here", "the pizza place", "tonight's match", "the first half", "the referee",
        "our goalkeeper", "the new album", "the opening act", "this playlist", "the last episode",
        "that film", "the ending", "the book club pick", "the museum", "the exhibition",
        "my new phone", "the update", "the app", "this keyboard", "the laptop", "the wifi",
        "the meeting", "the new office", "the deadline plan", "the printer", "the course",
        "the exam", "the lecture", "my haircut", "the gym class", "the garden", "the weather",
        "the neighbours' party", "the cake", "the quiz night", "the camera", "the headphones",
        "the vet visit", "the choir rehearsal", "the support chat", "the landlord's answer",
    ),
    "yes": (
        "the bus", "the 8:15 train", "the night train", "my flight", "the airport", "the ferry",
        "the tram", "the bike lane", "the rental bike", "the car park", "the motorway",
        "the taxi", "the hotel transfer", "the layover", "the check-in desk", "the ticket machine",
        "the cable car", "the commute", "the road trip", "the seat by the window", "the timetable",
        "the underground", "the sleeper coach", "the border crossing", "the new bridge",
    ),
}  # fmt: skip

_GOOD = (
    ("superb", 0.95), ("brilliant", 0.9), ("wonderful", 0.9), ("a dream", 0.9), ("lovely", 0.75),
    ("great", 0.75), ("spot on", 0.7), ("a joy", 0.8), ("impressive", 0.7), ("good", 0.55),
    ("fun", 0.55), ("pleasant", 0.5), ("solid", 0.4), ("decent", 0.35), ("worth it", 0.5),
    ("charming", 0.6), ("better than ever", 0.8), ("a nice surprise", 0.7), ("smooth", 0.5),
    ("reliable", 0.5), ("well made", 0.55), ("thoughtful", 0.55), ("worth every cent", 0.8),
    ("fantastic", 0.9), ("amazing", 0.9), ("delightful", 0.8), ("excellent", 0.85), ("neat", 0.5),
    ("perfect", 0.95), ("comfortable", 0.5), ("a treat", 0.75), ("splendid", 0.85), ("sweet", 0.55),
    ("outstanding", 0.9), ("cheerful", 0.6), ("refreshing", 0.6), ("a highlight", 0.75),
    ("beautiful", 0.8), ("magical", 0.85), ("satisfying", 0.6), ("stunning", 0.9), ("helpful", 0.5),
    ("marvellous", 0.9), ("first class", 0.8), ("relaxing", 0.6), ("inspiring", 0.75),
)  # fmt: skip
_BAD = (
    ("awful", -0.9), ("a disaster", -0.95), ("dreadful", -0.9), ("terrible", -0.85),
    ("a mess", -0.7), ("poor", -0.55), ("dull", -0.45), ("boring", -0.5), ("broken", -0.7),
    ("a letdown", -0.65), ("disappointing", -0.65), ("tiring", -0.4), ("too loud", -0.4),
    ("overpriced", -0.5), ("late", -0.45), ("clumsy", -0.4), ("bland", -0.4), ("a headache", -0.6),
    ("painful", -0.75), ("worse than last year", -0.6), ("a waste of time", -0.8), ("cold", -0.3),
    ("confusing", -0.45), ("unreliable", -0.6), ("horrible", -0.9), ("miserable", -0.8),
    ("useless", -0.75), ("annoying", -0.55), ("pathetic", -0.8), ("gloomy", -0.5), ("lousy", -0.65),
    ("a nightmare", -0.95), ("frustrating", -0.65), ("filthy", -0.7), ("a joke", -0.65),
    ("depressing", -0.7), ("shabby", -0.5), ("stressful", -0.6), ("unbearable", -0.9),
    ("a rip-off", -0.75), ("chaotic", -0.55), ("tedious", -0.5), ("ridiculous", -0.55),
    ("sloppy", -0.5), ("insulting", -0.75), ("hopeless", -0.8),
)  # fmt: skip
_FEELINGS_GOOD = (
    ("{thing} made my day", 0.8), ("I love {thing}", 0.8), ("so happy with {thing}", 0.75),
    ("could not stop smiling at {thing}", 0.8), ("{thing} saved my evening", 0.65),
    ("cannot recommend {thing} enough", 0.85), ("big thanks to everyone behind {thing}", 0.6),
    ("{thing} exceeded my hopes", 0.75), ("I enjoyed {thing} a lot", 0.65),
    ("still dreaming about {thing}", 0.6), ("hats off to {thing}", 0.65), ("{thing}, my hero", 0.7),
    ("already looking forward to {thing} again", 0.6), ("{thing} cheered me up", 0.55),
    ("pleased with {thing}", 0.5), ("{thing} deserves five stars", 0.85),
    ("we had such a good laugh at {thing}", 0.65), ("grateful for {thing} today", 0.55),
    ("I would do {thing} again tomorrow", 0.55), ("proud of {thing}", 0.6),
)  # fmt: skip
_FEELINGS_BAD = (
    ("{thing} ruined my day", -0.8), ("I hate {thing}", -0.85), ("so fed up with {thing}", -0.7),
    ("want my money back for {thing}", -0.7), ("{thing} cost me my evening", -0.5),
    ("cannot warn you enough about {thing}", -0.8), ("shame on everyone behind {thing}", -0.75),
    ("{thing} let me down", -0.65), ("I suffered through {thing}", -0.65),
    ("still angry about {thing}", -0.7), ("I nearly cried over {thing}", -0.6),
    ("already dreading {thing} again", -0.6), ("{thing} gets on my nerves", -0.55),
    ("sick of {thing}", -0.7), ("{thing} deserves one star", -0.8), ("avoid {thing}", -0.6),
    ("we left {thing} in a bad mood", -0.6), ("sorry I ever bothered with {thing}", -0.65),
    ("I regret {thing}", -0.6), ("{thing} was the low point of the week", -0.75),
)  # fmt: skip
_MIDDLING = (
    ("okay", 0.05), ("so-so", -0.05), ("average", 0.0), ("much as usual", 0.0),
    ("fine I guess", 0.1), ("neither here nor there", 0.0), ("about what you would expect", 0.05),
    ("unchanged", 0.0),
)  # fmt: skip
_DEGREES = (
    ("", 1.0), ("", 1.0), ("", 1.0), ("really ", 1.15), ("so ", 1.2), ("absolutely ", 1.25),
    ("quite ", 0.85), ("a bit ", 0.55), ("rather ", 0.8), ("honestly ", 1.0), ("kind of ", 0.6),
)  # fmt: skip
_NOT = ("not {}", "isn't {}", "never {}", "far from {}", "anything but {}", "hardly {}")
_LINKS = ("is", "was", "turned out", "has been", "seems", "looks")
_TURNS = ("but", "yet", "however", "though now", "and still", "but then")
_FACTS = (
    "{thing} opens at nine tomorrow", "anyone know when {thing} starts?", "reading about {thing}",
    "{thing} is on again on Thursday", "second day with {thing}, will report back",
    "a thread on {thing} and how it works", "does somebody have a link about {thing}?",
    "they moved {thing} to Monday", "minutes from the talk on {thing} are online",
    "has {thing} changed since last year?", "comparing prices for {thing}",
    "off to see about {thing}", "new rules for {thing} from April", "writing a note on {thing}",
    "question about {thing}: who do I ask?", "survey on {thing}, three minutes, link below",
)  # fmt: skip
_REPORTED = (
    "my sister says {thing} is {word}, I have no idea", "the reviews call {thing} {word}",
    "is {thing} really as {word} as they say?", "headline of the day: {thing} {word}",
    "someone behind me keeps saying {thing} was {word}", "would you call {thing} {word}? asking",
    "heard both that {thing} is {word} and that it is {other}",
)  # fmt: skip
_WISHES = (
    ("I wish {thing} were {good}", -0.45), ("if only {thing} was less {bad}", -0.5),
    ("{thing} used to be {good}", -0.5), ("{thing} could have been {good}", -0.4),
    ("{thing} stopped being {bad}, finally", 0.5), ("no more {bad} days with {thing}", 0.45),
    ("I expected {thing} to be {bad}, it was {good}", 0.65),
    ("I expected {thing} to be {good}, it was {bad}", -0.65),
    ("everyone called {thing} {bad} and they were wrong", 0.5),
    ("everyone called {thing} {good} and they were wrong", -0.5),
    ("nothing {bad} about {thing} this time", 0.4),
    ("nothing {good} about {thing} this time", -0.45),
    ("{thing} went from {bad} to {good}", 0.55), ("{thing} went from {good} to {bad}", -0.55),
    ("who said {thing} was {bad}? come on", 0.35), ("who said {thing} was {good}? come on", -0.4),
)  # fmt: skip
_IRONY = (
    "oh {good}, {thing} again. third time this week", "{thing} cancelled. how {good}",
    "just what I needed: {thing} and two hours of waiting",
    "thanks {thing}, I love standing in the rain",
    "another {good} day lost to {thing}", "wow {thing}, only forty minutes late. {good}",
    "so {good} of {thing} to stop working today", "ten out of ten, {thing}, for the queue",
)  # fmt: skip
_OPENERS = (
    "", "", "", "", "", "", "", "", "", "", "", "ok so ", "hm, ", "update: ", "day two: ",
    "honest opinion: ", "well, ", "news from here: ", "PSA: ", "tbh ", "not gonna lie, ",
)  # fmt: skip
_CLOSERS = (
    "", "", "", "", "", "", "", "", ".", ".", "!", "!!", " anyway", " just saying",
    " that's the tweet", "...", " what about you?", " more tomorrow",
)  # fmt: skip
_TAGS = (
    "#monday",
    "#weekend",
    "#today",
    "#fyi",
    "#life",
    "#news",
    "#local",
    "#spring",
    "#nofilter",
)
_MOODS = {
    "negative": ("😞", "🙄", "😡", "👎", "😩"),
    "neutral": ("🤔", "👀", "📷", "🕘"),
    "positive": ("😊", "🎉", "👍", "😍", "🙌"),
}
_MOOD_TAGS = {"negative": "#fail", "neutral": "#info", "positive": "#win"}
_FIRST = ("blue", "tiny", "north", "paper", "quiet", "green", "late", "sunny", "round", "velvet")
_SECOND = ("otter", "lantern", "kettle", "pixel", "walnut", "comet", "harbor", "sparrow", "button")


class _Writer:
    """Draws from ``random()`` alone, whose sequence Python keeps the same for ever."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def chance(self, share: float) -> bool:
        return self._random() < share

    def number(self, below: int) -> int:
        return int(self._random() * below)

    def spread(self, width: float) -> float:
        """A bell-shaped number around 0, mostly within ``width``."""
        return (sum(self._random() for _ in range(4)) - 2) * width

    def clause(self, thing: str, *, good: bool | None = None) -> _Clause:
        """A judgement on ``thing``, of the given sign or any."""
        if good is None and self.chance(0.12):
            word, valence = self.pick(_MIDDLING)
            return _Clause(f"{thing} {self.pick(_LINKS)} {word}", valence)
        good = self.chance(0.5) if good is None else good
        if self.chance(0.35):
            words, valence = self.pick(_FEELINGS_GOOD if good else _FEELINGS_BAD)
            return _Clause(words.format(thing=thing), valence)
        if self.chance(0.2):  # by negating the opposite, which is weaker than saying it
            word, valence = self.pick(_BAD if good else _GOOD)
            link, valence = self.pick(_LINKS), -0.6 * valence
            words = f"{thing} {link} {self.pick(_NOT).format(word)}"
            return _Clause(words.replace(f"{link} isn't", "isn't"), valence)
        word, valence = self.pick(_GOOD if good else _BAD)
        degree, factor = self.pick(_DEGREES)
        return _Clause(f"{thing} {self.pick(_LINKS)} {degree}{word}", valence * factor)

    def contrast(self, thing: str, other: str) -> _Clause:
        """Two judgements of opposite sign; the second one counts."""
        good = self.chance(0.5)
        first, second = self.clause(thing, good=not good), self.clause(other, good=good)
        if self.chance(0.3):
            words = f"even if {first.words}, {second.words}"
        elif self.chance(0.3):
            words = f"{second.words}, even though {first.words}"
        else:
            words = f"{first.words} {self.pick(_TURNS)} {second.words}"
        return _Clause(words, 0.75 * second.valence + 0.15 * first.valence)

    def wish(self, thing: str) -> _Clause:
        words, valence = self.pick(_WISHES)
        good, bad = self.pick(_GOOD)[0], self.pick(_BAD)[0]
        return _Clause(words.format(thing=thing, good=good, bad=bad), valence)

    def irony(self, thing: str) -> _Clause:
        word = self.pick(_GOOD)[0]
        return _Clause(self.pick(_IRONY).format(thing=thing, good=word), -0.6 + self.spread(0.1))

    def neutral(self, thing: str) -> _Clause:
        if self.chance(0.25):
            words, other = (self.pick(_GOOD)[0], self.pick(_BAD)[0])
            if self.chance(0.5):
                words, other = other, words
            return _Clause(self.pick(_REPORTED).format(thing=thing, word=words, other=other), 0.0)
        return _Clause(self.pick(_FACTS).format(thing=thing), self.spread(0.05))

    def statement(self, travel: str) -> _Clause:
        """What one tweet says."""
        thing, other = self.pick(_THINGS[travel]), self.pick(_THINGS[travel])
        kind = self.number(100)
        if kind < 30:
            return self.neutral(thing)
        if kind < 78:
            return self.clause(thing)
        if kind < 89:
            return self.contrast(thing, other)
        if kind < 96:
            return self.wish(thing)
        return self.irony(thing)

    def dressed(self, words: str, sentiment: str) -> str:
        """``words`` as people type them."""
        text = f"{self.pick(_OPENERS)}{words}{self.pick(_CLOSERS)}"
        if self.chance(0.1):
            text = self.misspelt(text)
        if self.chance(0.1):
            text = text.replace("so ", "sooo ").replace("really", "reallyyy")
        text = text[0].upper() + text[1:] if self.chance(0.6) else text
        if self.chance(0.04):
            text = text.upper()
        if self.chance(0.2):
            text = f"{text} {self.pick(_TAGS)}"
        if self.chance(0.06):
            text = f"{text} {_MOOD_TAGS[self.mood(sentiment)]}"
        if self.chance(0.2):
            text = f"{text} {self.pick(_MOODS[self.mood(sentiment)])}"
        if self.chance(0.15):
            text = f"@{self.handle()} {text}"
        if self.chance(0.1):
            text = f"{text} https://example.org/{self.number(10_000)}"
        return text.replace("&", "&amp;") if self.chance(0.5) else text

    def mood(self, sentiment: str) -> str:
        """The sentiment, or any: emoji are a hint, they do not give it away."""
        return self.pick(SENTIMENTS) if self.chance(0.5) else sentiment

    def misspelt(self, text: str) -> str:
        at = 1 + self.number(max(len(text) - 3, 1))
        if self.chance(0.5):
            return text[:at] + text[at + 1 :]
        return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]

    def handle(self) -> str:
        return f"{self.pick(_FIRST)}_{self.pick(_SECOND)}{self.number(100)}"

    def sentiment(self, valence: float) -> str:
        """The label a hurried annotator gives."""
        place = 1 if abs(valence) < _NEUTRAL_BELOW else 2 if valence > 0 else 0
        if self.chance(_LABEL_NOISE):
            place = (1, self.pick((0, 2)), 1)[place]
        return SENTIMENTS[place]


def demo_tweets(*, num_rows: int = NUM_ROWS, seed: int = SEED) -> list[dict[str, str]]:
    """The made-up tweets, in the order of their times; every value is a string, as in the file."""
    writer = _Writer(seed)
    rows: list[dict[str, str]] = []
    for number in range(num_rows):
        second = _FIRST_SECOND + _NUM_SECONDS * number // num_rows + writer.number(600)
        if rows and writer.chance(_REPEATED):
            source = writer.pick(rows)
            row = dict(source)
            if writer.chance(0.5):
                row["text"] = f"RT @{source['author']}: {source['text']}"
        else:
            travel = "yes" if writer.chance(0.36) else "no"
            said = writer.statement(travel)
            valence = min(max(said.valence + writer.spread(0.05), -1.0), 1.0)
            sentiment = writer.sentiment(valence)
            score = min(max((valence + 1) / 2 + writer.spread(0.04), 0.0), 1.0)
            row = {
                "text": writer.dressed(said.words, sentiment),
                "sentiment": "" if writer.chance(_SENTIMENT_MISSING) else sentiment,
                "intensity": "" if writer.chance(_INTENSITY_MISSING) else f"{score:.3f}",
                "travel": travel,
            }
        row["id"] = str((second * 1000 - _SNOWFLAKE_EPOCH_MS) << 22 | number % 4096)
        row["created_at"] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        row["author"] = writer.handle()
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def write_demo_tweets(path: str | Path) -> None:
    """Write ``demo_tweets`` as CSV."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(demo_tweets())


def example_tweets() -> pd.DataFrame:
    """The made-up tweets whose labels are all there, to try things with.

    Returns:
        ``id`` (texts), ``text``, ``created_at`` (UTC), ``author``, ``sentiment`` (negative,
        neutral, positive), ``intensity`` (float64, 0 very negative … 1 very positive) and
        ``travel`` (yes, no); about 1,800 rows in the order of their times.
    """
    import pandas as pd

    tweets = pd.DataFrame(demo_tweets())
    tweets = tweets[(tweets.sentiment != "") & (tweets.intensity != "")].reset_index(drop=True)
    tweets["created_at"] = pd.to_datetime(tweets.created_at, utc=True)
    tweets["intensity"] = tweets.intensity.astype(float)
    return tweets
