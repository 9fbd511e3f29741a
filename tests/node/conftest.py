"""Left out of ``make test``, as it installs into a cluster: ``make node-test``."""

import pytest

from node import cluster


@pytest.fixture(scope="session", autouse=True)
def node() -> None:
    """A node that can be reached and may be changed; without one nothing here is run."""
    why = cluster.missing()
    if why is not None:
        pytest.skip(f"not run: {why}")
    why = cluster.refusal()
    if why is not None:
        pytest.exit(why, returncode=1)
