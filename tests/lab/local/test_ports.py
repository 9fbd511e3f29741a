"""Free ports, on the real network stack."""

import socket

from tailbound_lab.local.ports import free_ports


def is_free(port: int) -> bool:
    """Whether a process that wants the port for itself alone gets it, as ``free_ports`` does."""
    with socket.socket() as candidate:
        try:
            candidate.bind(("", port))
        except OSError:
            return False
    return True


def test_port_is_kept_for_a_child_that_listens_on_it():
    (port,) = free_ports(1)
    assert not is_free(port)
    for host in ("", "127.0.0.1"):
        socket.create_server((host, port)).close()


def test_only_the_last_64_ports_are_kept():
    (port,) = free_ports(1)
    kept = free_ports(64)
    assert is_free(port)
    assert not any(map(is_free, kept))
