from pathlib import Path

from batching_watchdog.process import stacks


def test_stack_of_a_load_that_hangs_begins_with_the_functions_frame_and_has_its_other_threads():
    package = Path(stacks.__file__).parent
    dump = f"""Timeout (0:00:05)!
Thread 0x00007f01 (most recent call first):
  File "/function/fetch.py", line 9 in fetch
  File "/usr/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed
  File "/function/handler.py", line 3 in load
  File "{package}/handler.py", line 65 in __init__
  File "<frozen runpy>", line 88 in _run_code
"""
    shown = [line for line in stacks.stack_of(dump).splitlines() if line.startswith("  File ")]
    assert [line.rpartition(" in ")[2] for line in shown] == ["load", "wait", "run", "fetch"]
    assert stacks.stack_of("") == ""
