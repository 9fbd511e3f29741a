"""A tiny real HTTP server for the two generators: one thread for each connection."""

import contextlib
import socket
import threading
import time

from support import doubles

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CUT_SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
"""The server hangs up after it."""
REFUSED = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def hangs_up_on_the_third(_, counts=threading.local()):  # noqa: B008 - each connection is a thread
    """Two answers for each connection; the third request finds it closed without an answer."""
    counts.sent = getattr(counts, "sent", 0) + 1
    time.sleep(0.03)  # so that several connections are kept, each of which may be as stale
    return OK if counts.sent <= 2 else None


class Server(doubles.Server):
    """``answer(n)`` is the reply to the n-th request, None to hang up. To be used as a context."""

    daemon_threads = False
    request_queue_size = 512

    def __init__(self, answer, *, close=False):
        self.answer, self.close_after = answer, close
        self.lock = threading.Lock()
        self.requests, self.classes, self.sockets = [], [], []
        super().__init__(self.reply)
        self.port = self.server_address[1]

    def __exit__(self, *_):
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.close()

    def get_request(self):
        connection, address = super().get_request()
        self.sockets.append(connection)
        return connection, address

    def reply(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self.lock:
            self.requests.append((handler.requestline.encode(), body))
            self.classes.append((handler.path, handler.headers["X-SLO-Class"]))
            number = len(self.requests)
        reply = self.answer(number)
        handler.close_connection = self.close_after or reply in (None, CUT_SHORT)
        if reply is not None:
            handler.wfile.write(reply)
