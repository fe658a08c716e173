from __future__ import annotations

import torch

from paretopress.intake.flow.labels import NONE, Labels, along, shrunk


def test_join_makes_one_class_of_chains_of_pairs() -> None:
    labels = Labels()
    a, b, c = labels.fresh(3), labels.fresh(3), labels.fresh(3)
    labels.join(a, b)
    labels.join(c.flip(0), b)
    assert labels.roots(torch.stack([a, b, c.flip(0)])).tolist() == [a.tolist()] * 3


def test_join_pins_what_meets_no_channel() -> None:
    labels = Labels()
    a = labels.fresh(2)
    labels.join(a, torch.tensor([NONE, int(a[1])]))
    assert labels.reasons() == {int(a[0]): "its output is combined with something that keeps all its channels"}


def test_pin_keeps_the_first_reason_of_a_label() -> None:
    labels = Labels()
    a, b = labels.fresh(1), labels.fresh(1)
    labels.pin(a, "first")
    labels.pin(a, "second")
    labels.join(a, b)
    assert labels.reasons() == {int(a): "first"}


def test_join_of_many_pairs_is_transitive() -> None:
    labels = Labels()
    many = labels.fresh(5_000)
    labels.join(many[:-1], many[1:])
    assert set(labels.roots(many).tolist()) == {int(many[0])}


def test_along_returns_the_labels_of_an_axis_when_others_repeat_them() -> None:
    spread = torch.arange(1, 4).view(1, 3, 1).expand(2, 3, 5)
    found = along(spread, 1)
    assert found is not None
    assert found.tolist() == [1, 2, 3]
    assert along(torch.arange(6).view(2, 3), 1) is None


def test_shrunk_repeats_what_is_the_same() -> None:
    kept = shrunk(torch.arange(3).view(1, 3, 1).repeat(4, 1, 5))
    assert kept.stride() == (0, kept.stride(1), 0)
    assert kept.tolist() == torch.arange(3).view(1, 3, 1).repeat(4, 1, 5).tolist()
