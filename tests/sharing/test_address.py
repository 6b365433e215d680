from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.sharing.address import HubAddress, is_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_names_with_and_without_a_revision() -> None:
    address = HubAddress.parse("hub:alice/moods")
    assert (address.repository, address.revision, address.pinned) == ("alice/moods", None, False)
    assert not HubAddress.parse("hub:alice/moods@v1.0").pinned
    assert HubAddress.parse("hub:a/b@refs/pr/1").revision == "refs/pr/1"
    assert HubAddress.parse(f"hub:alice/moods@{COMMIT}").pinned
    assert str(address.at(COMMIT)) == f"hub:alice/moods@{COMMIT}"
    assert is_hub("hub:alice/moods") and not is_hub("runs/mood")


@pytest.mark.parametrize(
    "text",
    [
        "hub:moods", "alice/moods", "hub:", "hub:/", "hub:alice/", "hub:a/b/c", "hub:../moods",
        "hub:alice/..", "hub:alice/a--b", "hub:alice/m.git", "hub:alice/moods@", "hub:a/b@../../x",
        "hub:a/b@ -x", "hub:a/b?x=1", "hub:https://example.org/a/b", f"hub:{'a' * 96}/b",
        "hub:a/b\n", "hub:a/b@v1\n",
    ],
)  # fmt: skip
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"hub:|revision"):
        HubAddress.parse(text)


@given(st.text(max_size=30), st.text(max_size=20))
def test_what_is_taken_says_the_same_again(repository: str, revision: str) -> None:
    text = f"hub:{repository}@{revision}"
    try:
        address = HubAddress.parse(text)
    except ConfigError:
        return
    assert str(address) == text and HubAddress.parse(str(address)) == address
    assert address.repository.count("/") == 1 and ".." not in text
