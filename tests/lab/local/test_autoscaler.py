"""The autoscaler beside the platform: what is read of its log."""

import pytest

from tailbound_lab.local.services import page_url

STARTED = "INFO slo-autoscaler 0.1.0: gateway, every 1s; /metrics, /healthz and /decisions on 127.0.0.1:20427"


@pytest.mark.parametrize(
    ("log", "url"),
    [
        (f"{STARTED}; status page on http://127.0.0.1:8083\n", "http://127.0.0.1:8083"),
        (f"{STARTED}; status page on http://[::1]:8083; dry run\n", "http://[::1]:8083"),
        (f"WARNING web: cannot listen on 127.0.0.1:8083; going on without\n{STARTED}\n", None),
        (f"{STARTED}; status page on http://127.0.0.1:1\n{STARTED}; status page on http://127.0.0.1:2\n", 2),
    ],
    ids=["as usual", "a dry run", "its port was taken", "it was started again"],
)
def test_where_the_status_page_is_stands_in_the_log(tmp_path, log, url):
    path = tmp_path / "autoscaler.log"
    path.write_text(log)
    assert page_url(path) == ("http://127.0.0.1:2" if url == 2 else url)
