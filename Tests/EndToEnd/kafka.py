"""A cluster of Kafka's protocol: librdkafka's mock cluster as a process, and confluent-kafka as an independent client.

No broker of Kafka's own is to be had from Debian. The mock keeps its topics in memory, does not check the sequence
numbers of idempotent producers, and knows no CreateTopics: a test makes its topics itself.
"""

import contextlib
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from google.protobuf import json_format
from holdfast.v1 import event_pb2

needs_kafka = pytest.mark.skipif(
    not shutil.which("cc") or not pathlib.Path("/usr/include/librdkafka/rdkafka_mock.h").exists(),
    reason="needs a C compiler and librdkafka's headers (Debian: librdkafka-dev)")
# Requests and errors by their numbers in the protocol.
PRODUCE = 0
NOT_LEADER, MESSAGE_TOO_LARGE = 6, 10
OUT_OF_ORDER = 45
# With more than one request on its way the mock would take the second where the first one fails, which a broker does not.
ONE_AT_A_TIME = ("--broker-option", "max.in.flight=1")


class Kafka:
    """Up when entered."""

    def __init__(self, brokers=1):
        self.brokers = brokers

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="holdfast-kafka-")
        program = pathlib.Path(self.folder.name) / "kafka_mock"
        source = pathlib.Path(__file__).with_name("kafka_mock.c")
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", program, source, "-lrdkafka"], check=True)
        self.process = subprocess.Popen([program, str(self.brokers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.servers = self.process.stdout.readline().strip()
        assert re.fullmatch(r"127\.0\.0\.1:\d+(,127\.0\.0\.1:\d+)*", self.servers), self.servers
        self.address = f"kafka://{self.servers}"
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()

    def tell(self, *words):
        """A command of kafka_mock.c."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", f"{words}: {answer}"

    @contextlib.contextmanager
    def away(self):
        """No broker has or takes a connection."""
        self.tell("down", -1)
        try:
            yield
        finally:
            self.tell("up", -1)

    def topic(self, name, partitions=4):
        self.tell("topic", name, partitions)
        return name

    def records(self, topic, until, seconds=60, partitions=4):
        """Everything in a topic, from its beginning, until `until(records)` holds; reads it without a group."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "reader", "enable.auto.commit": False,
                             # The mock keeps 5 MB of a partition: what it has dropped is no longer told.
                             "auto.offset.reset": "error"})
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        records, end = [], time.monotonic() + seconds
        try:
            while not until(records):
                assert time.monotonic() < end, f"{topic}: {len(records)} records, and not what is waited for"
                for message in consumer.consume(1000, 0.2):
                    if message.error():
                        raise KafkaException(message.error())
                    records.append(Record(message))
        finally:
            consumer.close()
        return records

    def producer(self):
        return Producer({"bootstrap.servers": self.servers, "partitioner": "murmur2_random", "linger.ms": 5})


class Record:
    """What an independent client has read."""

    def __init__(self, message):
        self.sku = (message.key() or b"").decode()
        self.headers = {name: value.decode() for name, value in message.headers() or []}
        self.body, self.partition, self.milliseconds = message.value(), message.partition(), message.timestamp()[1]

    @property
    def id(self):
        return self.headers["ce_id"]

    @property
    def key(self):
        """What a consumer of events drops doubles by."""
        return self.id, self.sku

    @property
    def type(self):
        return self.headers["ce_type"]

    def read(self, kind):
        """Its body as a message of this type."""
        if self.headers["content-type"] == "application/json":
            return json_format.Parse(self.body.decode(), kind())
        assert self.headers["content-type"] == "application/protobuf"
        return kind.FromString(self.body)

    @property
    def event(self):
        return self.read(event_pb2.Event)
