#!/usr/bin/env python3
"""Makes the seed corpus from what grpcio sends: HOLDFAST_BINARY=... .venv/bin/python Tests/Fuzz/record.py"""

import pathlib
import socket
import sys
import threading

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "EndToEnd"))

import conftest  # noqa: E402  makes the generated modules
import grpc  # noqa: E402
from client import Client, line  # noqa: E402
from grpc_health.v1 import health_pb2  # noqa: E402
from http2 import CONTINUATION, HEADERS, PREFACE  # noqa: E402
from server import Server  # noqa: E402


def record(server, use):
    """What a client sends while use(client) runs, as a proxy in between sees it."""
    sent = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def carry(source, target, copy):
            while data := source.recv(1 << 16):
                if copy:
                    sent.extend(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

        def accept():
            downstream, _ = listener.accept()
            upstream = socket.create_connection((server.host, server.port))
            back = threading.Thread(target=carry, args=[upstream, downstream, False])
            back.start()
            carry(downstream, upstream, True)
            back.join()

        thread = threading.Thread(target=accept)
        thread.start()
        with Client(f"127.0.0.1:{listener.getsockname()[1]}", caller="shop") as client:
            use(client)
        thread.join()
    assert sent.startswith(PREFACE)
    return bytes(sent[len(PREFACE):])


def blocks(traffic):
    """The header blocks, each behind its length."""
    found, at = b"", 0
    while at + 9 <= len(traffic):
        length, kind = int.from_bytes(traffic[at:at + 3], "big"), traffic[at + 3]
        if kind in (HEADERS, CONTINUATION):
            found += length.to_bytes(2, "big") + traffic[at + 9:at + 9 + length]
        at += 9 + length
    return found


def reserve(client):
    for _ in range(3):
        client.reserve(line(client.item(1)))


def refuse(client):
    try:
        client.reserve(line("nothing"))
    except grpc.RpcError:
        pass


def watch(client):
    stream = client.health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    next(stream)
    stream.cancel()
    client.health.Check(health_pb2.HealthCheckRequest(), timeout=10)


def main():
    import os

    with Server(os.environ["HOLDFAST_BINARY"]) as server:
        for use in (reserve, refuse, watch):
            traffic = record(server, use)
            for target, data in [("frames", b"\x03" + traffic), ("headers", blocks(traffic))]:
                folder = FOLDER / "corpus" / target
                folder.mkdir(parents=True, exist_ok=True)
                (folder / use.__name__).write_bytes(data)


main()
