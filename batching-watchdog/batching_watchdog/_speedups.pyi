"""What ``_speedups.c`` has. Each answers None for what is not plain: then the caller's own code decides."""

from batching_watchdog.messages import Reply

def plain_request(
    data: bytes, captured: tuple[bytes, ...], max_head: int
) -> tuple[bytes, bytes, bytes, dict[bytes, bytes] | None, int, bytes] | None:
    """Method, target, ``wire.request_header_block``, captured headers, Content-Length (or -1), body."""

def encode_requests(requests: tuple[tuple[bytes, bytes], ...], below: int) -> bytes | None:
    """The frame of these (head, body) pairs, if it has less than ``below`` bytes."""

def encode_replies(replies: tuple[Reply, ...], seconds: float, below: int) -> bytes | None:
    """The frame of these replies, if it has less than ``below`` bytes."""

def decode_requests(count: int, data: memoryview) -> list[tuple[bytes, bytes]] | None:
    """The (head, body) pairs in what follows a frame's header."""

def decode_replies(count: int, data: memoryview, reply: type[Reply]) -> list[Reply] | None:
    """The replies in what follows a frame's header."""
