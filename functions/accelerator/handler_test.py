"""Tests of the handler: run ``pytest`` in this folder. They also run when the image is built."""

import importlib
import sys
import zlib
from types import SimpleNamespace

import pytest

from . import handler


@pytest.fixture
def slept(monkeypatch):
    """The sleeps that were asked for, in seconds; none is slept."""
    naps = []
    monkeypatch.setattr(handler.time, "sleep", naps.append)
    return naps


def call(*bodies: bytes) -> list:
    return handler.handle_batch([SimpleNamespace(body=body) for body in bodies], SimpleNamespace(model=None))


@pytest.mark.parametrize(("size", "seconds"), [(1, 0.0085), (8, 0.012), (64, 0.040)])
def test_a_batch_takes_eight_milliseconds_and_half_a_millisecond_per_item(slept, size, seconds):
    call(*[b"x"] * size)
    assert slept == [pytest.approx(seconds)]


def test_a_slower_device_takes_so_many_times_as_long(slept, monkeypatch):
    monkeypatch.setenv("device_slowdown", "2")
    try:
        importlib.reload(handler)
        call(b"x")
    finally:
        monkeypatch.undo()
        importlib.reload(handler)
    assert slept == [pytest.approx(0.017)]


def test_each_answer_belongs_to_its_request(slept):
    bodies = [b"", b"one", b"two", handler.example()]
    assert call(*bodies) == [{"checksum": zlib.crc32(body), "bytes": len(body)} for body in bodies]


def test_the_example_is_as_long_as_a_typical_request():
    assert 150 <= len(handler.example()) <= 250


def test_nothing_heavy_is_imported_so_replicas_start_fast():
    assert "torch" not in sys.modules
    assert "numpy" not in sys.modules
