import asyncio
import mmap
from types import SimpleNamespace
from typing import Any

import pytest

from batching_watchdog.config import Config
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.pool import supervisor
from batching_watchdog.pool.supervisor import WorkerPool, resident_bytes
from support.heard import batch


def test_resident_memory_is_read_in_bytes_and_a_process_that_has_gone_has_none(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text("900 100 50 1 0 300 0\n")
    assert resident_bytes(7, tmp_path) == 100 * mmap.PAGESIZE
    assert resident_bytes(8, tmp_path) is None


@pytest.mark.parametrize(("counts", "told"), [((0, 0, 0), [False, False]), ((2, 3, 3), [True, False])])
def test_worker_that_the_kernel_ended_for_lack_of_memory_is_told_apart(monkeypatch, counts, told):
    kills = iter(counts)
    monkeypatch.setattr(supervisor, "oom_kills", lambda: next(kills))
    heard: list[bool] = []

    def worker_lost(_: Any, *, out_of_memory: bool) -> None:
        heard.append(out_of_memory)

    async def run() -> None:
        shell: Any = SimpleNamespace(worker_lost=worker_lost, learn=None)
        worker: Any = object()
        pool = WorkerPool(Config.from_env({}, cpus=1.0), {}, shell, LatencyModel(8))
        for _ in told:
            pool.closed(worker, batch(b"a", b"b"))
        await pool.stop()

    asyncio.run(run())
    assert heard == told
