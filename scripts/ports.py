"""Ports of loopback for servers that end and are started again on the same ones."""

import pathlib
import random
import socket

LOWEST = 10_240


def free_ports(count):
    """Below those that the kernel gives to whoever connects.

    A port from among them may become somebody's own while its server is down: whoever calls a port again and again at which
    nobody listens is sooner or later given that very one, and then nobody can listen at it.
    """
    lowest_given = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = list(range(LOWEST, lowest_given))
    random.SystemRandom().shuffle(candidates)
    found = []
    for port in candidates:
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    assert len(found) == count, f"{count} ports below {lowest_given} are not free"
    return found
