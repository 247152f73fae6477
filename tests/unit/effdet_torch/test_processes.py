"""Values that several processes share."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import pytest

from effdet_torch.errors import UsageError
from effdet_torch.processes import ALONE, processes
from support.shared_values import left_alone, shared
from support.torchrun import FORKS, free_port, run_processes

FIRST, SECOND = [[1.0, 2.0], [3.0, 4.0]], [[2.0, 2.0], [3.0, 4.0]]


def test_two_processes_share_values() -> None:
    first, second = run_processes(2, shared)
    assert first["share"] == [0, 2, 4]
    assert second["share"] == [1, 3]
    assert first["gather"] == [{"rank": 0}, {"rank": 1}]
    assert second["gather"] == []
    assert [first["own"], second["own"]] == first["all"] == second["all"] == [FIRST, SECOND]
    for each, rank in ((first, 0), (second, 1)):
        assert each["broadcast"] == ["decided by", 0]
        assert each["broadcast_tensors"] == FIRST
        assert each["sum"] == [[3.0, 4.0], [6.0, 8.0]]
        assert each["local_rank"] == rank


def test_alone_every_value_is_its_own() -> None:
    found = shared(ALONE)
    assert found["share"] == [0, 1, 2, 3, 4]
    assert found["gather"] == [{"rank": 0}]
    assert found["broadcast"] == ["decided by", 0]
    assert found["all"] == [found["sum"]] == [FIRST]


@pytest.mark.parametrize("lost", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(lost)
    with (
        pytest.raises(UsageError, match=f"WORLD_SIZE is 2, but {lost} is not set; start .* with torchrun"),
        processes(),
    ):
        pass


def test_a_process_that_leaves_is_reported_to_the_others_at_once() -> None:
    with ProcessPoolExecutor(2, mp_context=FORKS) as pool:
        port = free_port()
        first, second = (pool.submit(left_alone, rank, port) for rank in (0, 1))
        assert second.result(100) == "nothing"
        assert first.result(100).startswith("process 0 of 2 lost the others: one of them ended")
