"""The table of real plans that simulations are fitted to."""

from __future__ import annotations

from simulation import setting


def test_setting_reads_the_facts_and_the_plans_that_are_kept() -> None:
    found = setting()
    assert len(found.rows) >= 600
    assert [group.name for group in found.space.graph.channel_groups][:2] == ["conv1", "layer1.0.conv1"]
    assert set(found.removal_order) <= {branch.group for branch in found.space.graph.branches}
