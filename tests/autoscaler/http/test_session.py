"""TLS towards Prometheus, the gateway and the Kubernetes API: real certificates, real servers."""

import base64
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import enumerate as enumerate_threads
from types import MappingProxyType

import pytest

from slo_autoscaler.errors import ConfigError, PlatformError, SourceError
from slo_autoscaler.http.session import open_session
from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.platforms.openfaas import Settings as GatewaySettings
from slo_autoscaler.settings.fields import Tls
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.source import Settings as PrometheusSettings
from support.certificates import Authority, a_tls_server, needs_openssl
from support.kube_server import write_kubeconfig
from support.waits import until

pytestmark = needs_openssl

EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}


@contextmanager
def a_source(url: str, tls: Tls) -> Iterator[PrometheusSource]:
    """Give a source whose threads have ended before the server closes.

    CPython leaves a socket to the garbage collector that is reset between its connection and its handshake.
    """
    source = PrometheusSource(PrometheusSettings(url=url, timeout=30.0, tls=tls))
    try:
        yield source
    finally:
        source.close()
        until(
            lambda: not any("prometheus" in thread.name for thread in enumerate_threads()), "they have ended"
        )


def ask_prometheus(url: str, ca: str, strict: bool | None, _folder: Path) -> None:
    with a_source(url, Tls(ca_file=ca, strict=strict)) as source:
        assert source.observe() == {}


def ask_gateway(url: str, ca: str, strict: bool | None, _folder: Path) -> None:
    settings = GatewaySettings(gateway_url=url, timeout=30.0, tls=Tls(ca_file=ca, strict=strict))
    platform = OpenFaas(settings, Alone())
    try:
        # The server's answer is no list, which the platform says once it has it.
        with pytest.raises(PlatformError) as told:
            platform.scales()
        if "certificate" in str(told.value):
            raise told.value
    finally:
        platform.close()


def ask_kubernetes(
    url: str, ca: str, strict: bool | None, folder: Path, user: Mapping[str, str] = MappingProxyType({})
) -> None:
    kubeconfig = write_kubeconfig(folder, {"server": url, "certificate-authority": ca}, user)
    api = KubeApi(kubeconfig, None, strict, timeout=30.0, connections=1)
    try:
        assert api.get("/api/v1/namespaces/x") == EMPTY
    finally:
        api.close()


CLIENTS = pytest.mark.parametrize("ask", [ask_prometheus, ask_gateway, ask_kubernetes])


@CLIENTS
@pytest.mark.parametrize(
    ("key_usage", "ours", "strict", "advised"),
    [
        (True, True, True, None),
        (False, True, False, None),
        (False, True, True, True),
        (True, False, False, False),
    ],
    ids=["by the RFC", "lenient", "without key usage", "another CA"],
)
def test_server_is_accepted_by_its_ca_or_refused_and_told_when_less_strict_would_help(
    ask, tmp_path, key_usage, ours, strict, advised
):
    authority, other = (Authority(tmp_path, name, key_usage=key_usage) for name in ("ours", "other"))
    with a_tls_server((authority if ours else other).issue("server"), EMPTY) as url:
        if advised is None:
            ask(url, authority.cert, strict, tmp_path)
            return
        with pytest.raises((SourceError, PlatformError), match="certificate verify failed: ") as refused:
            ask(url, authority.cert, strict, tmp_path)
    assert ("tls.strict: false" in str(refused.value)) is advised


@pytest.mark.parametrize("user", ["files", "data"])
def test_kubernetes_client_certificate_is_shown_when_tls_is_not_strict(tmp_path, user):
    authority = Authority(tmp_path, key_usage=False)
    client = authority.issue("client")
    if user == "files":
        shown = {"client-certificate": client.cert, "client-key": client.key}
    else:
        files = {"client-certificate-data": client.cert, "client-key-data": client.key}
        shown = {key: base64.b64encode(Path(path).read_bytes()).decode() for key, path in files.items()}
    with a_tls_server(authority.issue("server"), EMPTY, client_ca=authority.cert) as url:
        ask_kubernetes(url, authority.cert, False, tmp_path, shown)


def test_certificates_that_are_replaced_count_from_the_next_request_on_if_they_are_whole(tmp_path):
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    shown = other.issue("shown")
    tls = Tls(ca_file=ours.cert, cert_file=shown.cert, key_file=shown.key)
    server = a_tls_server(ours.issue("server"), EMPTY, client_ca=ours.cert)
    with server as url, a_source(url, tls) as source:
        with pytest.raises(SourceError):
            source.observe()
        shown.replace_with(ours.issue("next"))
        assert source.observe() == {}
        Path(shown.key).unlink()  # half way through the next rotation
        assert source.observe() == {}


def test_kubernetes_client_key_of_another_certificate_stops_the_start(tmp_path):
    authority = Authority(tmp_path)
    client, other = authority.issue("client"), authority.issue("other")
    user = {"client-certificate": client.cert, "client-key": other.key}
    with pytest.raises(ConfigError, match=r"platform\.kubeconfig"):
        ask_kubernetes("https://127.0.0.1:1", authority.cert, False, tmp_path, user)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ca_file": "absent"}, "prometheus.tls.ca_file"),
        ({"ca_file": "text"}, "prometheus.tls.ca_file"),
        ({"cert_file": "cert", "key_file": "absent"}, "prometheus.tls.key_file"),
        ({"cert_file": "cert", "key_file": "text"}, "prometheus.tls.cert_file"),
        ({"cert_file": "cert", "key_file": "encrypted"}, "prometheus.tls.cert_file"),
        ({"cert_file": "cert", "key_file": "other"}, "prometheus.tls.cert_file"),
    ],
)
def test_open_session_names_the_file_that_is_of_no_use(tmp_path, wrong, named):
    authority = Authority(tmp_path)
    cert, other = authority.issue("one"), authority.issue("two")
    encrypted = ["-out", str(tmp_path / "encrypted.key"), "-passout", "pass:secret"]
    command = ["openssl", "pkcs8", "-topk8", "-in", cert.key, *encrypted]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "text").write_text("no certificate")
    files = {
        "absent": "absent",
        "text": str(tmp_path / "text"),
        "cert": cert.cert,
        "other": other.key,
        "encrypted": str(tmp_path / "encrypted.key"),
    }
    tls = Tls(**{key: files[name] for key, name in wrong.items()})
    with pytest.raises(ConfigError) as refused:
        open_session("https://prometheus:9090", "prometheus", tls=tls)
    (line,) = refused.value.lines
    assert line.startswith(f"{named}: ")
    assert all(files[name] in line for key, name in wrong.items() if f"prometheus.tls.{key}" == named)
