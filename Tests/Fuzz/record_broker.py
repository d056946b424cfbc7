#!/usr/bin/env python3
"""Makes the seeds of what a broker says from what RabbitMQ says to pika: .venv/bin/python Tests/Fuzz/record_broker.py"""

import contextlib
import pathlib
import socket
import sys
import threading

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent / "EndToEnd"))

import pika  # noqa: E402
from rabbitmq import RabbitMQ  # noqa: E402

# How an input of each target begins: in what pieces, and that the login is in it.
FIRST = {"amqp": b"\x06", "broker": b"\x00"}
HEADERS = {"x-delivery-count": 3, "cloudEvents_id": "a", "cloudEvents_type": "OrderPlaced", "cloudEvents_partitionkey": "k",
           "nested": {"list": [1, "two", None, True, {"deep": b"\x00"}]}, "large": 1 << 40}


def record(broker, use):
    """What the broker says while use(channel) runs, as a proxy in between sees it. Queues are gone behind it."""
    said = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def carry(source, target, copy=None):
            # Either side may be gone first.
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    if copy is not None:
                        copy.extend(data)
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def accept():
            downstream, _ = listener.accept()
            upstream = socket.create_connection((broker.host, broker.port))
            back = threading.Thread(target=carry, args=[upstream, downstream, said], daemon=True)
            back.start()
            carry(downstream, upstream)
            back.join()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        user = broker.address.partition("://")[2].partition("@")[0]
        connection = pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", listener.getsockname()[1], "/", pika.PlainCredentials(user, broker.password)))
        channel = connection.channel()
        # In the order of Tests/Fuzz/BrokerFuzz.swift.
        channel.confirm_delivery()
        channel.exchange_declare("events", "topic", durable=True)
        channel.queue_declare("dead", durable=True)
        channel.basic_qos(prefetch_count=4)
        channel.basic_consume("dead", lambda *_: None, consumer_tag="0")
        use(channel)
        connection.close()
        thread.join()
    return bytes(said)


def publish(channel):
    for _ in range(3):
        channel.basic_publish("events", "key", b"body")


def deliver(channel):
    properties = pika.BasicProperties("application/json", headers=HEADERS, delivery_mode=2, correlation_id="c", reply_to="r",
                                      message_id="id", type="t", timestamp=1, expiration="9999", priority=1, app_id="a")
    for size in (0, 3, 300):
        channel.basic_publish("", "dead", b"x" * size, properties)
    channel.connection.process_data_events(1)


def come_back(channel):
    for _ in range(2):
        try:
            channel.basic_publish("", "nowhere", b"body", pika.BasicProperties(message_id="id"), mandatory=True)
        except pika.exceptions.UnroutableError:
            pass


def fill(channel):
    channel.queue_declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}, auto_delete=True)
    for _ in range(3):
        try:
            channel.basic_publish("", "full", b"body")
        except pika.exceptions.NackError:
            pass


def end_channel(channel):
    try:
        channel.basic_publish("no such exchange", "key", b"body")
    except pika.exceptions.ChannelClosedByBroker:
        pass


def main():
    with RabbitMQ() as broker:
        for use in (publish, deliver, come_back, fill, end_channel):
            said = record(broker, use)
            for target, first in FIRST.items():
                folder = FOLDER / "corpus" / target
                folder.mkdir(parents=True, exist_ok=True)
                (folder / use.__name__).write_bytes(first + said)
                print(target, use.__name__, len(said))


if __name__ == "__main__":
    main()
