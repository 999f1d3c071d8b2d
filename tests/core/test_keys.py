"""Session keys: validation, and digests that no choice of characters makes collide."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from langchain_ttl_history.errors import ConfigurationError
from langchain_ttl_history.keys import MAX_ID_BYTES, SessionKey, valid_id

ids = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=40)
# Few characters, so that pairs that differ only in where they are cut come up.
tricky = st.text(":*{}a\x01\x02", min_size=1, max_size=5)


@given(user=ids, session=ids)
def test_a_key_is_the_pair_as_given(user: str, session: str) -> None:
    key = SessionKey(valid_id("user_id", user), valid_id("session_id", session))
    assert key == (user, session)
    assert (key.user_id, key.session_id) == (user, session)


@settings(max_examples=500)
@given(left=st.tuples(tricky, tricky), right=st.tuples(tricky, tricky))
def test_two_keys_share_a_digest_only_if_they_are_one(left: tuple[str, str], right: tuple[str, str]) -> None:
    assert (SessionKey(*left).digest == SessionKey(*right).digest) == (left == right)


@settings(max_examples=300)
@given(text=st.text(min_size=2, max_size=12), first=st.integers(1, 11), second=st.integers(1, 11))
def test_where_a_text_is_cut_into_user_and_session_matters(text: str, first: int, second: int) -> None:
    assume(first != second and max(first, second) < len(text))
    one, other = (SessionKey(text[:at], text[at:]) for at in (first, second))
    assert one.digest != other.digest


@given(user=ids, session=ids)
def test_what_is_digested_is_length_prefixed_and_so_tells_the_pair(user: str, session: str) -> None:
    part = user.encode("utf-8", "surrogatepass")
    encoded = len(part).to_bytes(4, "big") + part + session.encode("utf-8", "surrogatepass")
    size = int.from_bytes(encoded[:4], "big")
    back = [each.decode("utf-8", "surrogatepass") for each in (encoded[4 : 4 + size], encoded[4 + size :])]
    assert back == [user, session]
    assert SessionKey(user, session).digest == hashlib.blake2b(encoded, digest_size=16).hexdigest()


@given(user=ids, session=ids)
def test_a_digest_is_of_fixed_length_and_tells_nothing(user: str, session: str) -> None:
    digest = SessionKey(user, session).digest
    assert len(digest) == 32
    assert set(digest) <= set("0123456789abcdef")
    assert digest == SessionKey(user, session).digest


def test_a_lone_surrogate_makes_a_key_of_its_own() -> None:
    assert SessionKey("\ud800", "s").digest != SessionKey("\ud801", "s").digest


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (-1, "-1"), (UUID(int=1), "00000000-0000-0000-0000-000000000001"), ("7", "7")]
)
def test_an_int_or_a_uuid_becomes_a_string(value: Any, text: str) -> None:
    assert valid_id("id", value) == text


class Name(str):
    __slots__ = ()


def test_a_subclass_of_str_becomes_a_plain_string() -> None:
    assert type(valid_id("id", Name("ada"))) is str
    assert valid_id("id", Name("ada")) == "ada"


class Number(int):
    def __str__(self) -> str:
        return "<user>"

    __repr__ = __str__


class Identity(UUID):
    def __str__(self) -> str:
        return "<user>"

    __repr__ = __str__


class Place(IntEnum):
    FIRST = 1


@pytest.mark.parametrize("value", [Number(1), Identity(int=1), Place.FIRST])
def test_an_id_is_its_value_whatever_its_class_writes_it_as(value: Any) -> None:
    plain = str(UUID(int=1)) if isinstance(value, UUID) else "1"
    assert valid_id("id", value) == plain
    assert type(valid_id("id", value)) is str


class Lazy:
    """As a proxy that looks its number up when it is asked, and says it is one."""

    @property
    def __class__(self) -> Any:
        return int

    def __str__(self) -> str:
        return "5"


def test_an_id_may_be_a_proxy_of_one() -> None:
    assert valid_id("id", Lazy()) == "5"


def test_a_number_of_a_class_of_its_own_may_be_too_long() -> None:
    with pytest.raises(ConfigurationError, match="at most 512 bytes"):
        valid_id("id", Number(10**5000))


@pytest.mark.parametrize("value", ["", "\0", "a\0b", None, True, False, 1.5, b"ada", ["ada"], {}, ("a", "b")], ids=repr)
def test_what_is_no_id_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="user_id"):
        valid_id("user_id", value)


@pytest.mark.parametrize("letter", ["a", "é", "€", "🙂", "\ud800"])
def test_an_id_may_be_so_many_bytes_long_and_not_one_more(letter: str) -> None:
    size = len(letter.encode("utf-8", "surrogatepass"))
    longest = letter * (MAX_ID_BYTES // size)
    longest += "a" * (MAX_ID_BYTES - len(longest) * size)
    assert valid_id("id", longest) == longest
    with pytest.raises(ConfigurationError, match="at most 512 bytes"):
        valid_id("id", longest + "a")


@given(value=st.text(max_size=300))
def test_an_id_is_taken_exactly_when_it_is_neither_empty_nor_too_long_nor_holds_a_nul(value: str) -> None:
    fine = 0 < len(value.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES and "\0" not in value
    if fine:
        assert valid_id("id", value) == value
    else:
        with pytest.raises(ConfigurationError):
            valid_id("id", value)
