"""Texts within words of a frame: which tokens are the text's own, and what is cut."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.tokens import Frame, encode
from pipeline.errors import BackboneError
from tests.builders.models import CONTEXT, TEXTS, make_tiny_model

PROMPT = 'This sentence: "{text}" means in one word: "'
FRAMES = (
    Frame(prefix="query: "),
    Frame(template=PROMPT),
    Frame(template="{text}{x}"),
    Frame(template="<{text}"),
    Frame(prefix=" "),
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        family: AutoTokenizer.from_pretrained(make_tiny_model(family, root))
        for family in ("bert", "gpt2", "llama")
    }


def own_tokens(tokenizer, text, frame):
    """Ids, mask of special tokens and which are the text's own, looked at one by one."""
    before, after = frame.words
    found = tokenizer(
        before + text + after, return_special_tokens_mask=True, return_offsets_mapping=True
    )
    wanted = set(range(len(before), len(before) + len(text)))
    held = [
        not special and bool(wanted & set(range(*span)))
        for span, special in zip(found["offset_mapping"], found["special_tokens_mask"], strict=True)
    ]
    own = np.zeros(len(held), bool)
    if any(held):
        places = np.flatnonzero(held)
        own[places[0] : places[-1] + 1] = True
    return np.array(found["input_ids"]), np.array(found["special_tokens_mask"], bool), own


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_own_tokens_are_those_that_hold_the_texts_characters(tokenizers, family, frame):
    texts = [*TEXTS, "x", "don't!", '"quoted"', "\u4eca\u65e5", "\U0001f602 ok \U0001f602"]
    encoded = encode(tokenizers[family], texts, max_length=10**6, frame=frame)
    rows = np.arange(len(texts))
    skip, count = encoded.own(rows, special_tokens=True)
    first, number = encoded.whole(rows, special_tokens=False)
    for i, text in enumerate(texts):
        ids, special, own = own_tokens(tokenizers[family], text, frame)
        np.testing.assert_array_equal(encoded.ids([i])[0], ids)
        places = np.arange(len(ids))
        np.testing.assert_array_equal(own, (places >= skip[i]) & (places < skip[i] + count[i]))
        np.testing.assert_array_equal(
            ~special, (places >= first[i]) & (places < first[i] + number[i])
        )
    assert not encoded.truncated.any()


@settings(max_examples=100)
@given(
    family=st.sampled_from(["bert", "gpt2", "llama"]),
    texts=st.lists(st.text(max_size=60), max_size=4),
    frame=st.sampled_from(FRAMES[1:]),
    room=st.integers(1, 30),
)
def test_a_text_that_is_too_long_is_cut_at_its_end(tokenizers, family, texts, frame, room):
    tokenizer = tokenizers[family]
    whole = encode(tokenizer, texts, max_length=10**6, frame=frame)
    rows = np.arange(len(texts))
    skip, count = whole.own(rows, special_tokens=True)
    max_length = int(max([0, *(whole.lengths - count)])) + room
    short = encode(tokenizer, texts, max_length=max_length, frame=frame, spans=True)
    np.testing.assert_array_equal(short.truncated, whole.lengths > max_length)
    np.testing.assert_array_equal(short.lengths, np.minimum(whole.lengths, max_length))
    np.testing.assert_array_equal(short.before, whole.before)
    np.testing.assert_array_equal(short.after, whole.after)
    for i, (before, cut) in enumerate(zip(whole.ids(rows), short.ids(rows), strict=True)):
        gone = len(before) - len(cut)
        if not gone:
            np.testing.assert_array_equal(before, cut)
            continue
        kept = count[i] - gone
        head, tail = skip[i] + kept, skip[i] + count[i]
        simple = [*before[:head], *before[tail:]]
        # The last token may hold the frame's first character, too: then it is the one before.
        bordering = [*before[: head - 1], *before[tail - 1 :]]
        assert cut.tolist() in (simple, bordering)
    assert (short.spans[:, 1] <= np.repeat([len(text) for text in texts], short.lengths)).all()
    assert len(short.spans) == len(short.flat)


def test_a_prefix_is_cut_as_the_tokenizer_itself_does(tokenizers):
    frame = Frame(prefix="query: ")
    encoded = encode(tokenizers["bert"], TEXTS, max_length=20, frame=frame)
    for i, text in enumerate(TEXTS):
        expected = tokenizers["bert"]("query: " + text, truncation=True, max_length=20)
        assert encoded.ids([i])[0].tolist() == expected["input_ids"]


def test_a_text_is_cut_on_the_side_that_the_tokenizer_cuts(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["bert"])
    tokenizer.truncation_side = "left"
    for options in ({}, {"frame": Frame(template="say {text} now")}):
        encoded = encode(tokenizer, ["the dog " * 20 + "ran"], max_length=12, **options)
        assert encoded.lengths.tolist() == [12] and encoded.truncated.all()
        words = tokenizer.decode(encoded.flat)
        assert "ran" in words and words.replace("[CLS]", "").split()[0] in ("say", "the", "dog")


def test_what_follows_a_text_stays_though_a_token_holds_both(tokenizers):
    frame = Frame(template='say "{text}!!!')
    tokenizer = tokenizers["gpt2"]
    text = "the cat sat on the mat " * 9 + "!!"
    full = tokenizer('say "' + text + "!!!")["input_ids"]
    (cut,) = encode(tokenizer, [text], max_length=20, frame=frame).ids([0])
    assert tokenizer.decode(cut).endswith("!!!") and len(cut) == 20
    assert cut.tolist()[:10] == full[:10]


def test_spans_count_from_the_text(tokenizers):
    text = "the cat"
    encoded = encode(
        tokenizers["bert"], [text], max_length=99, frame=Frame(template=PROMPT), spans=True
    )
    skip, count = (int(one[0]) for one in encoded.own(np.array([0]), special_tokens=True))
    own = encoded.spans[skip : skip + count]
    assert own[0, 0] == 0 and own[-1, 1] == len(text)
    assert not encoded.spans[:skip].any() and not encoded.spans[skip + count :].any()
    plain = encode(tokenizers["bert"], [text], max_length=99, spans=True)
    assert plain.spans[1:-1, 1].max() == len(text) and plain.before is None


def test_lone_surrogates_and_other_braces_mean_themselves(tokenizers):
    frame = Frame(template="{a} \ud83d {text} {}")
    assert frame.words == ("{a} \ufffd ", " {}")
    (ids,) = encode(tokenizers["gpt2"], ["b"], max_length=99, frame=frame).ids([0])
    assert tokenizers["gpt2"].decode(ids) == "{a} \ufffd b {}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": "a", "template": "{text}."}, "both given.*leave prefix out"),
        ({"template": "no place"}, r"holds \{text\} 0 times; write it once"),
        ({"template": "{text} {text}"}, r"holds \{text\} 2 times"),
        ({"template": "{text}"}, "says nothing; leave it out"),
        ({"prefix": ""}, "says nothing"),
        ({"template": "word " * 60 + "{text}"}, f"max_length = {CONTEXT} none are left"),
    ],
)
def test_frames_that_cannot_be_are_refused(tmp_path_factory, options, message):
    backbone = load_backbone(make_tiny_model("bert", tmp_path_factory.mktemp("m")), engine="torch")
    with pytest.raises(BackboneError, match=message):
        backbone.framed(**options)
