"""One child: its output, its restarts, its end."""

import asyncio
import os
import sys

from lab.local.harness import until
from tailbound_lab.local.supervisor import Launch, Supervisor, exit_text, restart_delay


def python(code: str) -> Launch:
    return Launch((sys.executable, "-c", code), os.environ)


def supervised(launch, scenario):
    lines: list[str] = []

    async def run():
        async with asyncio.timeout(20):
            supervisor = Supervisor("child", launch, lines.append)
            supervisor.start()
            try:
                await scenario(supervisor)
            finally:
                await supervisor.stop(0.1)

    asyncio.run(run())
    return lines


def test_a_child_that_keeps_crashing_is_started_ever_more_slowly():
    delays = [restart_delay(failures) for failures in range(1, 12)]
    assert delays[0] == 0.1
    assert delays == sorted(delays)
    assert delays[-1] == 10.0


def test_exits_are_told_in_words():
    assert exit_text(3) == "exited with status 3"
    assert exit_text(-9) == "was killed by SIGKILL"
    assert exit_text(-200) == "was killed by signal 200"


def test_both_streams_are_captured_as_lines_and_long_ones_are_cut():
    async def scenario(supervisor):
        await until(lambda: supervisor.starts == 2)

    code = "import sys; print('out'); sys.stderr.write('err\\n' + 'x' * 200_000 + '\\nlast'); sys.exit(4)"
    lines = supervised(lambda: python(code), scenario)
    first = lines[: lines.index("exited with status 4; starting again in 0.1 s")]
    assert {"out", "err", "last"} < set(first)
    assert sum(line.count("x") for line in first if set(line) == {"x"}) == 200_000
    assert max(map(len, first)) <= 65_536


def test_a_child_that_was_stopped_can_be_started_again():
    async def scenario(supervisor):
        await until(lambda: supervisor.pid is not None)
        await supervisor.stop(1.0)
        assert supervisor.pid is None
        supervisor.start()
        await until(lambda: supervisor.pid is not None)
        assert supervisor.starts == 2

    supervised(lambda: python("import time; time.sleep(60)"), scenario)


def test_a_program_that_does_not_exist_is_said_and_tried_again():
    async def scenario(supervisor):
        await until(lambda: supervisor.starts == 2)

    lines = supervised(lambda: Launch(("/no/such/program",), os.environ), scenario)
    assert lines[0] == "cannot run /no/such/program: No such file or directory"
    assert lines[1].startswith("exited with status 127; starting again")


def test_a_launch_that_fails_is_said_and_tried_again():
    attempts = []

    def launch():
        attempts.append(None)
        if len(attempts) == 1:
            raise OSError("no free ports")
        return python("import time; time.sleep(60)")

    async def scenario(supervisor):
        await until(lambda: supervisor.pid)

    lines = supervised(launch, scenario)
    assert lines[0].startswith("could not be started: no free ports; starting again")


def test_a_grandchild_that_holds_the_output_does_not_hide_the_exit():
    code = "import subprocess, sys; subprocess.Popen(['sleep', '3']); sys.exit(5)"

    async def scenario(supervisor):
        await until(lambda: supervisor.starts == 2)

    assert "exited with status 5; starting again in 0.1 s" in supervised(lambda: python(code), scenario)


def test_what_watches_a_child_ends_with_it():
    watching = []

    async def watch():
        watching.append("began")
        try:
            await asyncio.sleep(600)
        finally:
            watching.append("ended")

    async def run():
        supervisor = Supervisor("child", lambda: python("import time; time.sleep(600)"), print, watch=watch)
        supervisor.start()
        await until(lambda: watching)
        await supervisor.stop(0.1)

    asyncio.run(run())
    assert watching == ["began", "ended"]
