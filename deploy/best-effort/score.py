"""Scores a folder of files with requests of best effort: for each file one answer, until all are there.

    python score.py URL INPUT_FOLDER ANSWER_FOLDER [--slo-class bulk] [--parallel 64]

Run it again to continue: a file with an answer is skipped. A request that is refused (429, 503) or cut off is
sent again after its Retry-After. Exit status 1 names the inputs that the function refused for good.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import requests

AGAIN = {429, 502, 503, 504}
"""Statuses of a request that may be answered later."""
LONGEST_WAIT = 60.0
"""Seconds between two tries at most."""


def score(url: str, slo_class: str, answers: Path, source: Path) -> str:
    """Send one file until it is answered; return why it never will be, or an empty text."""
    target = answers / f"{source.name}.answer"
    wait = 1.0
    while not target.exists():
        try:
            answer = requests.post(
                url, source.read_bytes(), headers={"X-SLO-Class": slo_class}, timeout=(5.0, None)
            )
        except requests.RequestException:
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
            continue
        if answer.ok:
            # Renamed last, so that a job that is killed leaves no half of an answer.
            part = target.with_suffix(".part")
            part.write_bytes(answer.content)
            part.rename(target)
        elif answer.status_code in AGAIN:
            time.sleep(min(float(answer.headers.get("Retry-After", wait)), LONGEST_WAIT))
        else:
            return f"{source}: {answer.status_code} {answer.text[:200]}"
    return ""


def main() -> int:
    """Score all files of a folder; return the exit status."""
    parser = argparse.ArgumentParser(description="Score a folder of files with requests of best effort.")
    parser.add_argument("url")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--slo-class", default="bulk", help="the function's class of best effort [bulk]")
    parser.add_argument("--parallel", type=int, default=64, help="requests at a time [64]")
    options = parser.parse_args()
    options.answers.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in options.inputs.iterdir() if path.is_file())
    one = partial(score, options.url, options.slo_class, options.answers)
    failures = []
    with ThreadPoolExecutor(options.parallel) as pool:
        for done, problem in enumerate(pool.map(one, files), 1):
            if problem:
                failures.append(problem)
            if done % 1000 == 0 or done == len(files):
                sys.stderr.write(f"{done} of {len(files)}\n")
    for problem in failures:
        sys.stderr.write(f"{problem}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
