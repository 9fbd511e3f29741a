"""Opens sessions towards HTTP servers: credentials, certificates, extra headers and proxies.

Owns the files with secrets and certificates, which must exist at the start. Tokens and passwords are read
again for each request and certificates when a file changes, because platforms rotate them. Messages name a
file and never show its content.

From the environment only the proxies are used (HTTPS_PROXY, HTTP_PROXY, NO_PROXY). requests would also take
credentials from ~/.netrc and CAs from REQUESTS_CA_BUNDLE, which no operator of a pod expects.
"""

import logging
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from requests import PreparedRequest, RequestException, Session
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.settings.fields import Tls

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Secret:
    """One line of text in a file, such as a token or a password."""

    key: str
    """Key of the configuration, for messages."""
    path: str

    def read(self) -> str:
        """Return the text without the space around it. Raises ``ConfigError``."""
        try:
            text = Path(self.path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"{self.key}: {self.path!r} {_unreadable(error)}"]) from None
        if not text or not text.isprintable():
            why = "several lines or control characters" if text else "nothing"
            raise ConfigError([f"{self.key}: {self.path!r} must hold one line of text, and holds {why}"])
        return text


@dataclass(frozen=True, slots=True)
class Authorization:
    """Sets the header Authorization of each request from the files' present content."""

    secret: Secret
    """A password if there is a user, else a bearer token."""
    user: Secret | str | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Put the header into a request."""
        try:
            secret = self.secret.read()
            user = self.user.read() if isinstance(self.user, Secret) else self.user
        except ConfigError as error:  # within a request, errors are requests'
            raise RequestException(str(error)) from None
        if user is None:
            # http.client encodes as Latin-1, and its error would show the text. This sends the file's bytes.
            request.headers["Authorization"] = f"Bearer {secret.encode().decode('latin-1')}"
            return request
        HTTPBasicAuth(user.encode(), secret.encode())(request)
        return request

    def faults(self) -> list[str]:
        """Return one line for each missing or unusable file."""
        found: list[str] = []
        for each in (self.user, self.secret):
            try:
                if isinstance(each, Secret):
                    each.read()
            except ConfigError as error:
                found += error.lines
        return found


def open_session(
    url: str,
    key: str,
    *,
    tls: Tls,
    auth: Authorization | None = None,
    headers: Mapping[str, str] | None = None,
    connections: int = 10,
) -> Session:
    """Return a session for one server. Raises ``ConfigError`` if a file is missing or unusable.

    ``key`` is the section of the configuration. At most ``connections`` are kept. There are no retries.
    """
    faults = [] if auth is None else auth.faults()
    try:
        certificates = Certificates(f"{key}.tls", tls)
    except ConfigError as error:
        faults += error.lines
    if faults:
        raise ConfigError(faults)
    session = Session()
    session.trust_env = False
    session.proxies.update(get_environ_proxies(url))
    session.auth = auth
    session.headers.update(headers or {})
    session.mount("http://", HTTPAdapter(pool_maxsize=connections))
    session.mount("https://", _Adapter(certificates, connections))
    return session


def tls_context(strict: bool | None) -> ssl.SSLContext:
    """Return a context that trusts no CA yet.

    ``strict`` None is Python's own default: from 3.13 on certificates must follow RFC 5280 strictly.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Trust a CA in the file that is no root, as Go's programs do and Python from 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if sys.version_info >= (3, 13) if strict is None else strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


class Certificates:
    """The TLS context of one server, rebuilt when a file has changed.

    It is complete before its first use: in OpenSSL, loading a certificate into a context from which other
    threads open connections is not safe.
    """

    def __init__(self, key: str, tls: Tls) -> None:
        """Read the files. Raises ``ConfigError``; ``key`` is the section of the configuration."""
        self._key = key
        self._tls = tls
        self._files = [each for each in (tls.ca_file, tls.cert_file, tls.key_file) if each is not None]
        self._read = self._stamps(), self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection, from the present files.

        While they cannot be read, for example during a rotation, return the last one.
        """
        stamps, context = self._read
        now = self._stamps()
        if now != stamps:
            try:
                context = self._load()
            except ConfigError as error:
                logger.warning("%s; using the last readable certificates", error)
            self._read = now, context
        return context

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        return tuple(_stamp(path) for path in self._files)

    def _load(self) -> ssl.SSLContext:
        tls, context = self._tls, tls_context(self._tls.strict)
        faults = [fault for name in ("ca_file", "cert_file", "key_file") for fault in self._faults(name)]
        if faults:
            raise ConfigError(faults)
        try:
            context.load_verify_locations(tls.ca_file or DEFAULT_CA_BUNDLE_PATH)
        except ssl.SSLError as error:
            why = f"must be a PEM file of certificates: {error}"
            raise ConfigError([f"{self._key}.ca_file: {tls.ca_file!r} {why}"]) from None
        if tls.cert_file is not None:
            try:
                # An empty password makes an encrypted key fail; without one OpenSSL prompts on the terminal.
                context.load_cert_chain(tls.cert_file, tls.key_file, password="")
            except ssl.SSLError as error:
                files = f"{tls.cert_file!r} and {tls.key_file!r}"
                why = f"must be PEM files of a certificate and its key without a password: {error}"
                raise ConfigError([f"{self._key}.cert_file: {files} {why}"]) from None
        return context

    def _faults(self, name: str) -> list[str]:
        path = getattr(self._tls, name)
        try:
            if path is not None:
                Path(path).read_bytes()
        except OSError as error:
            return [f"{self._key}.{name}: {path!r} {_unreadable(error)}"]
        return []


class _Adapter(HTTPAdapter):
    """Opens connections with our context. requests accepts one only from a subclass."""

    def __init__(self, certificates: Certificates, connections: int) -> None:
        self._certificates = certificates
        super().__init__(pool_maxsize=connections)

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Return the key of a pool: a new context gets a new pool with its own connections."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"cert_reqs": "CERT_REQUIRED", "ssl_context": self._certificates.context()}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the context is complete, and requests would add public CAs to a private one."""


def _unreadable(error: Exception) -> str:
    return f"must be a readable file: {error.strerror if isinstance(error, OSError) else 'not text'}"


def _stamp(path: str) -> tuple[int, int]:
    """Return a value that changes when the file is written or replaced; zeros while it is missing."""
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino
