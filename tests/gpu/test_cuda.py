"""The watchdog on a real CUDA device: batches, lack of memory, sticky errors, forks, discovery."""

import os
import subprocess
import sys

import pytest

from batching_watchdog.process.machine import cuda_devices
from support.processes import starting_watchdog, watchdog
from support.waits import until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

MODEL = """
import torch

def load():
    torch.manual_seed(1)
    return torch.nn.Linear(4, 1).to("cuda").eval()

@torch.inference_mode()
def handle_batch(events, context):
    rows = torch.tensor([event.json() for event in events], dtype=torch.float, device="cuda")
    return [{"score": score, "size": len(events)} for score in context.model(rows).flatten().tolist()]

def example():
    return b"[0.1, 0.2, 0.3, 0.4]"
"""
TOO_LARGE = """
import torch

def load():
    return torch.cuda.get_device_properties(0).total_memory // 10

def handle_batch(events, context):
    torch.empty(context.model * len(events), dtype=torch.uint8, device="cuda")
    return ["fine"] * len(events)
"""
"""A batch of ten does not fit the device."""
STICKY = """
import os, torch

def load():
    return torch.zeros(4, device="cuda")

def handle_batch(events, context):
    if any(event.body == b"poison" for event in events):
        context.model[torch.tensor([9], device="cuda")]  # out of bounds: asserted on the device
        torch.cuda.synchronize()
    return [str(os.getpid()) for _ in events]
"""
POISON_FORK = """
import torch

def load():
    torch.cuda.is_available() and torch.zeros(1, device="cuda")

def handle(event, context):
    return "fine"
"""


def in_a_process(code: str, **environment: str) -> str:
    """What ``code`` prints in a process of its own: CUDA, once initialized, would stay in this one."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(autouse=True, scope="module")
def device() -> str:
    found = in_a_process(
        "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    )
    assert found, "needs a CUDA device: torch.cuda.is_available() is false here"
    return found


def test_requests_at_the_same_time_are_answered_by_batches_on_the_device():
    with watchdog(MODEL, workers="1", max_batch_size="16") as dog:
        answers = dog.call_all([b"[1, 2, 3, 4]"] * 64)
        assert {answer.status for answer in answers} == {200}
        assert dog.metric("watchdog_batch_size_sum") > dog.metric("watchdog_batch_size_count")


def test_batches_beyond_the_memory_of_the_device_lower_the_ceiling_and_every_request_is_answered():
    with watchdog(TOO_LARGE, workers="1", max_batch_size="32") as dog:

        def is_lower() -> bool:
            assert {answer.status for answer in dog.call_all([b"x"] * 64)} == {200}
            return dog.metric("watchdog_batch_ceiling") < 32

        until(is_lower, "a batch was too large")
        assert "ran out of memory" in dog.log


def test_error_that_stays_with_the_process_costs_its_request_alone_and_the_worker_is_replaced():
    with watchdog(STICKY, workers="1") as dog:
        before = dog.call(body=b"x").body
        assert dog.call(body=b"poison").status == 502
        after = dog.call(body=b"x")
        assert after.status == 200
        assert after.body != before


def test_preload_of_a_model_on_the_device_ends_the_start_and_names_the_fork():
    with starting_watchdog(POISON_FORK, workers="2", preload="true") as dog:
        assert dog.ended() == 1
        assert "fork" in dog.log.splitlines()[-1]


@pytest.mark.parametrize("visible", ["all", "void", "/var/run/nvidia-container-devices"])
def test_devices_are_found_however_the_runtime_names_them(visible):
    """``void`` is CDI's value of ``NVIDIA_VISIBLE_DEVICES``, a path the device plugin's."""
    count = int(in_a_process("import torch; print(torch.cuda.device_count())"))
    environment = {key: value for key, value in os.environ.items() if key == "CUDA_VISIBLE_DEVICES"}
    assert len(cuda_devices({**environment, "NVIDIA_VISIBLE_DEVICES": visible})) == count
