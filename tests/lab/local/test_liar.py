"""A function whose metrics page speaks of others: the real Prometheus and the autoscaler, on the platform."""

import sys
from pathlib import Path

import pytest

from lab.local.harness import missing, on_platform, until

LIAR = (sys.executable, str(Path(__file__).with_name("liar.py")))
MORE = {"com.openfaas.scale.max": "3"}


@pytest.mark.e2e
@missing("prometheus")
@on_platform(replica_command=LIAR, with_prometheus=True, prometheus_port=0, with_autoscaler=True)
async def test_page_that_speaks_of_another_function_moves_its_own_count_alone(client):
    reads = client.folder / "reads"
    await client.deploy(service="victim", labels=MORE)
    await client.deploy(service="liar", labels=MORE, envVars={"lies": str(reads)})
    functions = {function.spec.name: function for function in client.platform.registry}
    await until(lambda: functions["liar"].desired > 1)
    # The addresses to read directly are listed every five seconds; the page is scraped each second.
    await until(lambda: reads.stat().st_size > 20 * functions["liar"].desired)
    assert functions["victim"].desired == 1
