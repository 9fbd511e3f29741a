"""Makes our scaler as it is configured by default, for simulations."""

import json
from typing import Any

from slo_autoscaler.config import Config
from tailbound_lab.simulate.scalers import DecideScaler


def ours(name: str = "slo", **defaults: Any) -> DecideScaler:
    """Return ours under its default configuration with these keys of ``defaults``."""
    nowhere = {"platform": {"gateway_url": "http://none"}, "prometheus": {"url": "http://none"}}
    config = Config.parse(json.dumps(nowhere | {"defaults": defaults}), "the simulator")
    # Reconciles come half a scrape interval after a scrape, the mean delay.
    spec, phase = config.target("function.openfaas-fn"), config.prometheus.scrape_interval // 2
    return DecideScaler(spec, config.interval, phase, name, direct_interval=config.direct_interval)
