from __future__ import annotations

from paretopress.system.lru_cache import LruCache


def test_the_value_used_longest_ago_goes_first() -> None:
    kept = LruCache[bytes](30, len)
    kept.put("a", bytes(10))
    kept.put("b", bytes(10))
    assert kept.get("a") == bytes(10)
    kept.put("c", bytes(20))
    assert kept.get("b") is None
    assert kept.get("a") is not None
    assert kept.get("c") is not None


def test_a_value_is_replaced_and_counted_once() -> None:
    kept = LruCache[bytes](30, len)
    kept.put("a", bytes(20))
    kept.put("a", bytes(15))
    kept.put("b", bytes(15))
    assert kept.get("a") == bytes(15)
    assert kept.get("b") == bytes(15)


def test_a_value_above_the_limit_is_not_kept() -> None:
    kept = LruCache[bytes](30, len)
    kept.put("a", bytes(10))
    kept.put("b", bytes(31))
    assert kept.get("b") is None
    kept.put("c", bytes(30))
    assert kept.get("c") == bytes(30)
