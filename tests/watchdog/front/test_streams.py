import pytest

from batching_watchdog.front.streams import format_for
from batching_watchdog.messages import Reply

TEXT = Reply(200, b"Content-Type: text/plain; charset=utf-8\r\n", 'é\n"'.encode())
JSON = Reply(200, b"Content-Type: application/json\r\n", b'{"a":1}')
BYTES = Reply(200, b"Content-Type: application/octet-stream\r\n", b"raw")
OWN = Reply(200, b"Content-Type: text/csv\r\n", b"1,2")


@pytest.mark.parametrize(
    ("accept", "first", "written", "error"),
    [
        ("text/event-stream", JSON, b'data: {"a":1}\n\n', b"event: error\ndata: why\n\n"),
        (
            "text/html, text/event-stream",
            TEXT,
            'data: é\ndata: "\n\n'.encode(),
            b"event: error\ndata: why\n\n",
        ),
        ("*/*", JSON, b'{"a":1}\n', b'{"error": "why"}\n'),
        ("", TEXT, b'"\\u00e9\\n\\""\n', b'{"error": "why"}\n'),
        ("", TEXT._replace(body=b"\xff"), b'"\\ufffd"\n', b'{"error": "why"}\n'),
        ("", BYTES, b"raw", b'{"error": "why"}\n'),
        ("text/event-stream", OWN, b"1,2", b""),
    ],
)
def test_piece_and_error_are_written_as_client_and_function_ask(accept, first, written, error):
    chosen = format_for(accept, first)
    assert chosen.piece(first) == written
    assert chosen.error("why") == error


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_event_keeps_every_end_of_line_of_its_piece(end):
    piece = TEXT._replace(body=b"a" + end + b"b" + end)
    assert format_for("text/event-stream", piece).piece(piece) == b"data: a\ndata: b\ndata: \n\n"
