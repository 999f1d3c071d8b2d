"""What is drawn for a storage and for the model that it is compared with: small, so that the same comes again."""

from __future__ import annotations

from hypothesis import strategies as st

from langchain_ttl_history.keys import SessionKey
from langchain_ttl_history.storage.types import Blob, Entry, Lease

KEYS = [SessionKey("ada", "s1"), SessionKey("ada", "s2"), SessionKey("bob", "s1")]
BLOBS = ("m1", "m2", "v1", "c1")
LISTS = ("log", "w1")

# Mostly one, so that much happens to it.
keys = st.sampled_from([KEYS[0], KEYS[0], *KEYS])
payloads = st.binary(max_size=6)
times = st.sampled_from([None, 10.0, 25.0, 60.0])
leases = st.builds(Lease, times, st.sampled_from([None, None, 40.0, 100.0]))
refs = st.lists(st.sampled_from(BLOBS), max_size=2).map(tuple)
# Which of a session's positions, oldest first; see `Model.at`.
places = st.integers(0, 8)
blobs = st.builds(Blob, payloads, refs, places, st.lists(st.sampled_from(BLOBS + LISTS), max_size=2).map(tuple))
blobs_by_name = st.dictionaries(st.sampled_from(BLOBS), blobs, max_size=3)
appended = st.lists(st.tuples(st.sampled_from(LISTS), payloads, refs), max_size=3)
placed = st.lists(st.tuples(st.sampled_from(LISTS), st.builds(Entry, places, payloads, refs)), max_size=2)
dropped = st.lists(st.sampled_from(BLOBS + LISTS), max_size=2)
trimmed = st.dictionaries(st.sampled_from(LISTS), st.frozensets(places, max_size=3), max_size=1)
