"""The storage contract as a suite of tests, for whoever writes a storage of their own.

Subclass `StorageContract` once for the verbs and once for their async twins, and let pytest
collect it, with pytest-asyncio in auto mode (or any other runner of async test methods):

```python
class TestMyStorage(StorageContract):
    def make(self, clock):
        return MyStorage(clock=clock)


class TestMyStorageAsync(TestMyStorage):
    asynchronous = True
```

Its tests are plain asserts, so Python must not run them with -O.
"""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):
    import pytest

    # Before they are imported: a failure then tells the values.
    pytest.register_assert_rewrite(*(f"{__name__}.{each}" for each in ("cases", "contents", "contract", "lives")))

from langchain_ttl_history.testing.cases import Clock
from langchain_ttl_history.testing.contract import StorageContract

if not __debug__:
    raise RuntimeError("the storage contract is tested by asserts, which Python leaves out with -O")

__all__ = ["Clock", "StorageContract"]
