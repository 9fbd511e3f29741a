"""What an OpenFaaS gateway exposes: names, labels and buckets of its ``metrics/metrics.go``."""

_EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def gateway_exposition(*names: str, tens: int = 1) -> str:
    """Return the page after ``tens`` times ten requests of every function: 8 took 0.2 s, 2 took 0.4 s.

    One more of each has no answer yet.
    """
    lines = []
    for name in names:
        labels = f'code="200",function_name="{name}"'
        for edge in _EDGES:
            count = tens * (8 * (edge >= 0.2) + 2 * (edge >= 0.4))
            lines.append(f'gateway_functions_seconds_bucket{{{labels},le="{edge}"}} {count}')
        lines += [
            f'gateway_functions_seconds_bucket{{{labels},le="+Inf"}} {tens * 10}',
            f"gateway_functions_seconds_count{{{labels}}} {tens * 10}",
            f"gateway_functions_seconds_sum{{{labels}}} {tens * 2.4}",
            f"gateway_function_invocation_total{{{labels}}} {tens * 10}",
            f'gateway_function_invocation_started{{function_name="{name}"}} {tens * 10 + 1}',
            f'gateway_service_count{{function_name="{name}"}} 1',
        ]
    return "\n".join(lines) + "\n"
