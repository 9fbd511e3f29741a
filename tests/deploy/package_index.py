"""A package index over TLS with a private CA, and packages that hold nothing but their names."""

import base64
import ssl
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from support.certificates import Pair
from support.doubles import Server, send


def make_wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        info = f"{stem}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@contextmanager
def an_index(pair: Pair, *folders: Path, user: str = "") -> Iterator[tuple[int, list[str]]]:
    """Serve wheels as PEP 503 says; give the port on localhost and the files that were taken.

    ``user``: user:password that every request must have.
    """
    files = {path.name: path for folder in folders for path in folder.glob("*.whl")}
    taken: list[str] = []
    expected = f"Basic {base64.b64encode(user.encode()).decode()}" if user else None

    def answer(handler: BaseHTTPRequestHandler) -> None:
        name = unquote(handler.path.rstrip("/").rpartition("/")[2])
        if expected is not None and handler.headers.get("Authorization") != expected:
            return send(handler, 401, b"", WWW_Authenticate='Basic realm="index"')
        if name in files:
            taken.append(name)
            return send(handler, 200, files[name].read_bytes())
        mine = [each for each in files if _normal(each.partition("-")[0]) == _normal(name)]
        links = "".join(f'<a href="/files/{each.replace("+", "%2B")}">{each}</a>' for each in mine)
        return send(handler, 200 if mine else 404, links.encode(), Content_Type="text/html")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server = Server(answer, context)
    try:
        yield server.server_address[1], taken
    finally:
        server.close()


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
