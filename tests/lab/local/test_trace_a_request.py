"""docs/howto/trace-a-request.md on the local platform: its commands find the request that they ask for."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from support.pages import ROOT, blocks, inline
from tailbound_lab.local.platform import Settings, open_platform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PAGE = (ROOT / "docs/howto/trace-a-request.md").read_text()
ID = "2a7b9d50"
"""The call id in the page's commands."""
# Later than any target: every request misses it, so it has a line.
HANDLER = """
import time

def handle(event, context):
    time.sleep(0.02)
    return event.body
"""
LATE = "workers: 1, slo_latency: 10ms, access_log: missed"
STACK = f"""
functions:
  my-model: {{handler: fn, image: a, environment: {{{LATE}}}}}
  json: {{handler: fn, image: b, environment: {{{LATE}, log_format: json}}}}
"""
WITHOUT_TIME = "sed 's/^[^{]*//'"
"""The platform puts a time before each line, which a log collector takes off."""


def command(beginning: str) -> str:
    """Return the first command of the page that begins so."""
    lines = [line for block in blocks(PAGE) for line in block.text.splitlines()] + inline(PAGE)
    return next(line for line in lines if line.startswith(beginning))


async def run(words: str, folder: Path) -> str:
    """Run a command until it says something: a line of the log comes after the answer to its request."""
    while True:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", words, cwd=folder, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        if said:
            assert process.returncode == 0, words
            return said.decode()
        await asyncio.sleep(0.1)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_commands_of_the_page_find_the_line_of_a_slow_request(tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "handler.py").write_text(HANDLER)
    (tmp_path / "stack.yml").write_text(STACK)
    (tmp_path / "body").write_text("text")
    settings = Settings(
        stack=tmp_path / "stack.yml",
        port=0,
        with_prometheus=False,
        with_autoscaler=False,
        run_dir=tmp_path / "DIR",
    )

    async def ask() -> tuple[str, str, str]:
        async with open_platform(settings) as platform:
            await platform.settled()
            call = command("curl").replace("http://127.0.0.1:8080", platform.gateway_url)
            ids = [
                re.findall(r"(?im)^x-call-id: *(\S+)", await run(words, tmp_path))[0]
                for words in (call, call.replace("/my-model", "/json"))
            ]
            search = command("grep -rh")
            found = await run(search.replace(ID, ids[0]), tmp_path)
            objects = search.replace(ID, ids[1]).replace("my-model", "json")
            picked = command("jq").replace(f"{ID}-...", ids[1])
            return ids[1], found, await run(f"{objects} | {WITHOUT_TIME} | {picked}", tmp_path)

    call_id, line, picked = asyncio.run(ask())
    assert re.search(r"\(\d+\.\d+s\) \[.*\] slow, batch \d+ \(1, \w+\), queued \d+\.\d+s", line)
    assert json.loads(picked)["call_id"] == call_id
