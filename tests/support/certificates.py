"""Real certificates by the openssl command, and servers that show them."""

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.doubles import Server, status

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, each in a PEM file."""

    cert: str
    key: str

    def replace_with(self, other: "Pair") -> None:
        """Put another pair into these files, as a platform does that rotates them."""
        shutil.copyfile(other.cert, self.cert)
        shutil.copyfile(other.key, self.key)


class Authority:
    """A private CA. Without ``key_usage`` it breaks RFC 5280, as many that were made by hand do."""

    def __init__(self, folder: Path, name: str = "ca", *, key_usage: bool = True) -> None:
        self._folder = folder
        usage = ["keyUsage=critical,keyCertSign,cRLSign"] if key_usage else []
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        self.pair = self._made(name, None, "basicConstraints=critical,CA:true", *usage)

    @property
    def cert(self) -> str:
        return self.pair.cert

    def issue(self, name: str) -> Pair:
        """Return a certificate for loopback, as server and as client."""
        return self._made(
            name,
            self.pair,
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "basicConstraints=critical,CA:false",
            "keyUsage=critical,digitalSignature",
            "extendedKeyUsage=serverAuth,clientAuth",
            "authorityKeyIdentifier=keyid",
        )

    def _made(self, name: str, issuer: Pair | None, *extensions: str) -> Pair:
        pair = Pair(str(self._folder / f"{name}.pem"), str(self._folder / f"{name}.key"))
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-out", pair.cert, "-keyout", pair.key]
        command += ["-config", str(self._folder / "openssl.cnf")]
        command += [] if issuer is None else ["-CA", issuer.cert, "-CAkey", issuer.key]
        for each in ("subjectKeyIdentifier=hash", *extensions):
            command += ["-addext", each]
        subprocess.run(command, check=True, capture_output=True)
        return pair


@contextmanager
def a_tls_server(pair: Pair, answer: object, client_ca: str | None = None) -> Iterator[str]:
    """Give the URL of a server that answers every request with the same JSON.

    With ``client_ca`` clients must show a certificate of that CA.
    """

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    server = Server(status(200, json.dumps(answer).encode()), context)
    try:
        yield f"https://{server.address}"
    finally:
        server.close()
