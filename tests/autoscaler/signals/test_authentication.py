"""Prometheus with authentication: the real program with a web configuration file, and proxies before it."""

import base64

import pytest

from slo_autoscaler.errors import ConfigError, SourceError
from slo_autoscaler.settings.fields import Tls
from slo_autoscaler.show.web.charts import Grid
from slo_autoscaler.show.web.reader import Reader
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.source import BasicAuth, Settings
from support import doubles
from support.certificates import Authority, needs_openssl
from support.doubles import a_fleet, a_gateway, a_prometheus, an_empty_prometheus
from support.fault_proxy import a_fault_proxy
from support.waits import until

PASSWORD = "correct horse"
HASHED = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e"
"""Of the password, by bcrypt."""


@pytest.fixture
def proxy():
    """A proxy before an empty Prometheus."""
    with an_empty_prometheus() as empty, a_fault_proxy(empty.url) as between:
        yield between


@pytest.fixture
def connect(proxy, keep):
    """Make sources on the proxy."""
    usual = {"url": proxy.url, "timeout": 30.0}
    return lambda **settings: keep(PrometheusSource(Settings(**{**usual, **settings})))


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    return path


@pytest.mark.e2e
@needs_openssl
def test_real_prometheus_with_tls_users_and_client_certificates_is_read(tmp_path):
    authority = Authority(tmp_path)
    server, client = authority.issue("server"), authority.issue("client")
    web = {
        "tls_server_config": {
            "cert_file": server.cert,
            "key_file": server.key,
            "client_ca_file": authority.cert,
            "client_auth_type": "RequireAndVerifyClientCert",
        },
        "basic_auth_users": {"scaler": HASHED},
    }
    password = tmp_path / "password"
    password.write_text(PASSWORD + "\n")
    tls = Tls(ca_file=authority.cert, cert_file=client.cert, key_file=client.key, strict=True)
    usual = {"scrape_interval": 0.25, "window": 2.0, "timeout": 30.0}
    auth = BasicAuth(username="scaler", password_file=str(password))
    with a_fleet() as fleet, a_prometheus(tmp_path, {"busy.fn": [fleet.address]}, web=web) as prometheus:
        settings = Settings(url=prometheus.url, basic_auth=auth, tls=tls, **usual)
        source, page = PrometheusSource(settings), Reader(settings)
        until(lambda: _started(source) and _seen(source), "the function is seen")
        assert page.health().problem is None
        assert page.ranges({"up": "up"}, Grid(page.now() - 10.0, page.now(), 1.0))

        password.write_text("wrong staple")
        with pytest.raises(SourceError, match="401") as refused:
            source.observe()
        assert "staple" not in str(refused.value)
        password.write_text(PASSWORD)
        assert _seen(source)

        anonymous = PrometheusSource(
            Settings(url=prometheus.url, basic_auth=auth, tls=Tls(ca_file=authority.cert), **usual)
        )
        with pytest.raises(SourceError, match="certificate"):
            anonymous.observe()
        for each in (source, page, anonymous):
            each.close()


def test_bearer_token_is_read_again_when_it_is_rotated(proxy, connect, secret):
    proxy.required = {"Authorization": "Bearer s3cret"}
    source = connect(bearer_token_file=str(secret))
    assert source.observe() == {}
    proxy.required = {"Authorization": "Bearer n3xt"}
    with pytest.raises(SourceError, match="401"):
        source.observe()
    secret.write_text("n3xt")
    assert source.observe() == {}


def test_user_password_and_tenant_reach_the_proxy_in_front_of_prometheus(proxy, connect, secret):
    credentials = base64.b64encode(b"123456:s3cret").decode()
    proxy.required = {"Authorization": f"Basic {credentials}", "X-Scope-OrgID": "42"}
    auth = BasicAuth(username="123456", password_file=str(secret))
    assert connect(basic_auth=auth, headers={"X-Scope-OrgID": 42}).observe() == {}
    with pytest.raises(SourceError, match="401"):
        connect(basic_auth=auth).observe()


def test_proxy_of_the_environment_counts_unless_no_proxy_names_the_server(proxy, connect, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy.fault = doubles.status(200, doubles.NO_SERIES)
    assert connect(url="http://prometheus.invalid:9090").observe() == {}
    monkeypatch.setenv("no_proxy", "prometheus.invalid")
    with pytest.raises(SourceError):
        connect(url="http://prometheus.invalid:9090").observe()


def test_redirect_is_a_source_error_and_no_header_follows_it(proxy, connect, secret):
    with a_gateway() as elsewhere:
        proxy.fault = doubles.status(302, b"", Location=f"{elsewhere.url}/login?state=private")
        source = connect(bearer_token_file=str(secret), headers={"X-Key": "private"})
        with pytest.raises(SourceError, match=elsewhere.url) as refused:
            source.observe()
        assert elsewhere.requests == []
    assert "private" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff\xfe"])
@pytest.mark.parametrize("key", ["bearer_token_file", "basic_auth"])
def test_secret_file_that_is_of_no_use_stops_the_start_with_its_path(connect, tmp_path, key, content):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    auth = BasicAuth(username="me", password_file=str(path))
    with pytest.raises(ConfigError) as refused:
        connect(**{key: auth if key == "basic_auth" else str(path)})
    (line,) = refused.value.lines
    assert line.startswith(f"prometheus.{key}")
    assert f"{path!s}" in line
    assert "two" not in line


def _started(source: PrometheusSource) -> bool:
    """Tell whether Prometheus answers; before that it says 503."""
    try:
        source.observe()
    except SourceError as error:
        if "503" not in str(error):
            raise
        return False
    return True


def _seen(source: PrometheusSource) -> bool:
    return "busy.fn" in source.observe()
