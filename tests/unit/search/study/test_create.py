from __future__ import annotations

from pathlib import Path

import pytest

from paretopress.core.model_graph import BitGroup, Layer, LayerKind, ModelGraph, TensorSpec
from paretopress.errors import RunFolderError
from paretopress.search.storage.studies import open_study
from paretopress.search.study.create import create_study
from paretopress.spaces.space import SearchSpace, SpaceOptions

LAYER = Layer("conv", LayerKind.CONV, 32, 32, (3, 3), (1, 1), 1, 1_000_000, 9_216, (32, 8, 8))
SPACE = SearchSpace(
    ModelGraph(
        (TensorSpec("input", (3, 8, 8)),), (TensorSpec("output", (10,)),), (LAYER,), (), (), (BitGroup("conv", ("conv",), (32, 8)),), ()
    ),
    SpaceOptions(),
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    study = create_study(tmp_path / "journal.log", "random", SPACE, 0)
    for value in (1.0, 2.0):
        study.tell(study.ask(fixed_distributions=SPACE.distributions()), [value, 1.0, 1.0])
    return tmp_path / "journal.log"


def test_create_study_goes_on_when_the_last_record_is_torn(journal: Path) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "trial_id": 1, "par')  # a disk was full in the middle of a record
    study = create_study(journal, "random", SPACE, 0)
    study.tell(study.ask(fixed_distributions=SPACE.distributions()), [3.0, 1.0, 1.0])
    assert [trial.values[0] for trial in open_study(journal).trials] == [1.0, 2.0, 3.0]


def test_open_study_reads_what_is_whole_when_the_last_record_is_torn(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4')
    before = journal.read_bytes()
    assert len(open_study(journal).trials) == 2
    assert journal.read_bytes() == before


def test_open_study_names_the_journal_when_a_record_in_it_is_damaged(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"{damaged\n", *lines[3:]]))
    with pytest.raises(RunFolderError, match="one JSON record a line"):
        open_study(journal)
