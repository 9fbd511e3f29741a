"""A tiny real HTTP server for the two generators: one thread for each connection."""

import contextlib
import socket
import threading
import time

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1;x=y\r\n!\r\n0\r\nT: 1\r\n\r\n"
CUT_SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
"""The server hangs up after it."""
REFUSED = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def hangs_up_on_the_third(_, counts=threading.local()):  # noqa: B008 - each connection is a thread
    """Two answers for each connection; the third request finds it closed without an answer."""
    counts.sent = getattr(counts, "sent", 0) + 1
    time.sleep(0.03)  # so that several connections are kept, each of which may be as stale
    return OK if counts.sent <= 2 else None


class Server:
    """``answer(n)`` is the reply to the n-th request, None to hang up. To be used as a context."""

    def __init__(self, answer, *, close=False):
        self.answer, self.close_after = answer, close
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.requests, self.heads, self.sockets = [], [], []
        self.threads = [threading.Thread(target=self.accept)]

    def __enter__(self):
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        for each in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in list(self.threads):
            thread.join()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.sockets.append(connection)
                self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
                self.threads[-1].start()

    def serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                head = [line]
                while (line := stream.readline()).strip():
                    head.append(line)
                length = next(int(h.split(b":")[1]) for h in head if h.lower().startswith(b"content-length"))
                body = stream.read(length)
                with self.lock:
                    self.requests.append((head[0].strip(), body))
                    self.heads.append(b"".join(head))
                    number = len(self.requests)
                reply = self.answer(number)
                if reply is None:
                    return
                connection.sendall(reply)
                if self.close_after or reply is CUT_SHORT:
                    return
