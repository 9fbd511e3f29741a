"""Takes the picture of the status page while a demo runs: ``make pictures``. Needs Chromium."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("pages") / "function-wide-light.png"
FUNCTION: Final = "accelerator.openfaas-fn"
SECONDS: Final = 100.0
"""From the beginning of the traffic: the peak is over, and its replicas are going."""
CHROMIUM: Final = (
    "chromium",
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--window-size=1440,1800",
    "--virtual-time-budget=5000",
)


def main() -> int:
    """Run the demo without its twins, and write the picture; 0 if there is one."""
    demo = [sys.executable, "-m", "tailbound_lab.demo", "--no-baseline"]
    with subprocess.Popen(demo, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 - ours
        assert running.stdout is not None  # noqa: S101 - a pipe
        for line in running.stdout:
            sys.stdout.write(line)
            if found := re.search(r"while this runs: (http\S+)", line):
                break
        else:
            return running.wait()
        time.sleep(SECONDS)
        picture = f"--screenshot={FILE}"
        page = f"{found[1]}functions/{FUNCTION}"
        subprocess.run([*CHROMIUM, picture, page], check=True)  # noqa: S603 - ours
        sys.stdout.write(running.communicate()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
