"""TLS towards Prometheus, the gateway and the Kubernetes API: real certificates, real servers."""

import base64
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from autoscaler.certificates import Authority, a_tls_server, needs_openssl
from autoscaler.kube.kube_server import write_kubeconfig
from slo_autoscaler.errors import ConfigError, PlatformError, SourceError
from slo_autoscaler.fields import Tls
from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.leader import Alone
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.platforms.openfaas import Settings as GatewaySettings
from slo_autoscaler.session import open_session, tls_context
from slo_autoscaler.sources import Settings as PrometheusSettings
from slo_autoscaler.sources.prometheus import PrometheusSource

pytestmark = needs_openssl

EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}


def ask_prometheus(url: str, ca: str, strict: bool | None, _folder: Path) -> None:
    source = PrometheusSource(PrometheusSettings(url=url, timeout=30.0, tls=Tls(ca_file=ca, strict=strict)))
    try:
        assert source.observe() == {}
    finally:
        source.close()


def ask_gateway(url: str, ca: str, strict: bool | None, _folder: Path) -> None:
    settings = GatewaySettings(gateway_url=url, timeout=30.0, tls=Tls(ca_file=ca, strict=strict))
    platform = OpenFaas(settings, Alone())
    try:
        platform._get("/system/functions", "openfaas-fn")
    finally:
        platform.close()


def ask_kubernetes(url: str, ca: str, strict: bool | None, folder: Path) -> None:
    kubeconfig = write_kubeconfig(folder, {"server": url, "certificate-authority": ca}, {})
    api = KubeApi(kubeconfig, None, strict, timeout=30.0, connections=1)
    try:
        api.get("/api/v1/namespaces/x")
    finally:
        api.close()


CLIENTS = pytest.mark.parametrize("ask", [ask_prometheus, ask_gateway, ask_kubernetes])


def complaint(url: str, ca: str, *, strict: bool) -> str:
    """Return OpenSSL's own sentence about a server."""
    context = tls_context(strict)
    context.load_verify_locations(ca)
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        pytest.raises(ssl.SSLCertVerificationError) as refused,
        context.wrap_socket(plain, server_hostname=host),
    ):
        pass
    return refused.value.verify_message


@CLIENTS
def test_ca_without_key_usage_is_refused_when_strict_with_openssls_words_and_the_setting(ask, tmp_path):
    authority = Authority(tmp_path, key_usage=False)
    with a_tls_server(authority.issue("server"), EMPTY) as url:
        with pytest.raises((SourceError, PlatformError)) as refused:
            ask(url, authority.cert, True, tmp_path)
        assert complaint(url, authority.cert, strict=True) in str(refused.value)
        assert "tls.strict: false" in str(refused.value)
        ask(url, authority.cert, False, tmp_path)


@CLIENTS
def test_server_of_another_ca_is_refused_with_openssls_words(ask, tmp_path):
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    with a_tls_server(other.issue("server"), EMPTY) as url:
        with pytest.raises((SourceError, PlatformError)) as refused:
            ask(url, ours.cert, False, tmp_path)
        assert complaint(url, ours.cert, strict=False) in str(refused.value)
        assert "tls.strict" not in str(refused.value)


@CLIENTS
def test_ca_that_follows_the_rfc_is_accepted_when_strict(ask, tmp_path):
    authority = Authority(tmp_path)
    with a_tls_server(authority.issue("server"), EMPTY) as url:
        ask(url, authority.cert, True, tmp_path)


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
        cluster = {"server": url, "certificate-authority": authority.cert}
        api = KubeApi(write_kubeconfig(tmp_path, cluster, shown), None, False, timeout=30.0, connections=1)
        assert api.get("/") == EMPTY
        api.close()


@pytest.mark.parametrize("key", ["other", "encrypted"])
def test_kubernetes_client_key_that_is_of_no_use_stops_the_start(tmp_path, key):
    authority = Authority(tmp_path)
    client, other = authority.issue("client"), authority.issue("other")
    encrypt(client.key, tmp_path / "encrypted.key")
    keys = {"other": other.key, "encrypted": str(tmp_path / "encrypted.key")}
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority": authority.cert}
    user = {"client-certificate": client.cert, "client-key": keys[key]}
    with pytest.raises(ConfigError, match=r"platform\.kubeconfig"):
        KubeApi(write_kubeconfig(tmp_path, cluster, user), None, False, timeout=1.0, connections=1)


def test_certificates_that_are_replaced_count_from_the_next_request_on(tmp_path):
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    shown = other.issue("shown")
    with a_tls_server(ours.issue("server"), EMPTY, client_ca=ours.cert) as url:
        tls = Tls(ca_file=ours.cert, cert_file=shown.cert, key_file=shown.key)
        source = PrometheusSource(PrometheusSettings(url=url, timeout=30.0, tls=tls))
        with pytest.raises(SourceError):
            source.observe()
        shown.replace_with(ours.issue("next"))
        assert source.observe() == {}
        source.close()


def test_certificates_that_are_half_way_through_a_rotation_leave_the_last_ones_in_use(tmp_path):
    authority = Authority(tmp_path)
    shown = authority.issue("shown")
    with a_tls_server(authority.issue("server"), EMPTY, client_ca=authority.cert) as url:
        tls = Tls(ca_file=authority.cert, cert_file=shown.cert, key_file=shown.key)
        session = open_session(url, "prometheus", tls=tls)
        Path(shown.key).unlink()
        assert session.get(url, timeout=30).json() == EMPTY
        session.close()


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
    encrypt(cert.key, tmp_path / "encrypted.key")
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


def encrypt(key: str, encrypted: Path) -> None:
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", key, "-out", str(encrypted), "-passout", "pass:secret"],
        check=True,
        capture_output=True,
    )
