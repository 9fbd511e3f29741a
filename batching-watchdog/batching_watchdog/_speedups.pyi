"""What ``_speedups.c`` has. It answers None for what is not plain: then the caller's own code decides."""

def plain_request(
    data: bytes, captured: tuple[bytes, ...], max_head: int
) -> tuple[bytes, bytes, bytes, dict[bytes, bytes] | None, int, bytes] | None:
    """Method, target, ``wire.request_header_block``, captured headers, Content-Length (or -1), body."""
