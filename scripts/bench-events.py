#!/usr/bin/env python3
"""How many events a second `holdfast relay` brings to a RabbitMQ, at which CPU, and how late they are.

    bench-events.py [--repetitions N] [--events N] [--seconds S] [--only rate,delay] [--program PATH] [--load PATH]

rate    A server with so many events behind it; a relay publishes them all, to an exchange that nobody listens to and to one with a
        durable queue, as JSON and as protobuf, one after the other in each repetition. Events a second until the broker has
        confirmed the last, and microseconds of CPU per event: of the relay (which decodes, encodes, publishes and takes
        confirmations) and of the broker. Medians, least and most.
delay   A live load at half of the median rate to a durable queue: how long after its decision a consumer has an event, of one
        routing key in fifty.

Broker, server, relay, load and this run on the same machine: on a small one the broker is what ends first, and a machine on which
others work tells little. `make bench-broker` says what the broker takes without the rest.
"""
import argparse, datetime, os, pathlib, re, shutil, signal, statistics, subprocess, sys, tempfile, threading, time, urllib.request

import pika

HERE = pathlib.Path(__file__).resolve().parent.parent
RELEASE = HERE / ".build/release"
TICK = os.sysconf("SC_CLK_TCK")
ITEMS = 1000
CELLS = [("nobody listens", "json"), ("nobody listens", "protobuf"), ("one queue", "json"), ("one queue", "protobuf")]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Broker:
    def __init__(self, folder):
        self.process = subprocess.Popen([sys.executable, HERE / "scripts/broker.py", "run", folder], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, text=True)
        self.address, file, pid, _ = (self.process.stdout.readline().strip() for _ in range(4))
        if not self.address:
            sys.exit("bench-events: the broker does not come up")
        self.password, self.pid = pathlib.Path(file).read_text(), int(pid)

    def connect(self):
        user, _, rest = self.address.partition("://")[2].partition("@")
        return pika.BlockingConnection(pika.URLParameters(f"amqp://{user}:{self.password}@{rest}/%2F"))

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


class Server:
    def __init__(self, options, folder):
        self.process = subprocess.Popen([options.program, "serve", "--port", "0", "--admin-port", "0", "--data-dir", folder / "data"],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"grpc (\S+) admin", self.process.stdout.readline())
        if not found:
            sys.exit("bench-events: the server does not come up")
        self.target = found[1]

    def load(self, options, *flags):
        command = [options.load, "run", "--target", self.target, "--skus", ITEMS, *map(str, flags)]
        return subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Relay:
    def __init__(self, options, server, broker, folder, exchange, *flags):
        self.file = tempfile.mktemp(dir=folder)
        command = [options.program, "relay", "--target", server.target, "--broker", broker.address, "--resume-file", self.file,
                   "--admin-port", "0", "--destination", exchange, *flags]
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "HOLDFAST_BROKER_PASSWORD": broker.password})
        self.admin = self.process.stdout.readline().split("admin ")[1].split()[0]

    def metrics(self):
        page = urllib.request.urlopen(f"{self.admin}/metrics").read().decode()
        return {name: float(value) for name, value in re.findall(r"^holdfast_relay_(\w+) (\S+)$", page, re.MULTILINE)}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            sys.exit("bench-events: the relay has failed")


def one_run(options, server, broker, folder, place, form):
    """(events, seconds, the relay's CPU seconds, the broker's)."""
    exchange = f"bench-{time.monotonic_ns()}"
    with broker.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare(exchange, "topic", durable=True)
        if place == "one queue":
            channel.queue_declare(exchange, durable=True)
            channel.queue_bind(exchange, exchange, "#")
    brokers, began = cpu_seconds(broker.pid), time.monotonic()
    relay = Relay(options, server, broker, folder, exchange, "--format", form)
    while (seen := relay.metrics())["lag_lsns"] > 0 or seen["lsn"] == 0 or seen["unconfirmed"] > 0:
        time.sleep(0.05)
    seconds, cpu, brokers = time.monotonic() - began, cpu_seconds(relay.process.pid), cpu_seconds(broker.pid) - brokers
    relay.stop()
    with broker.connect() as connection:
        channel = connection.channel()
        if place == "one queue" and (count := channel.queue_declare(exchange, passive=True).method.message_count) < seen["messages_total"]:
            sys.exit(f"bench-events: {count} messages in the queue of {seen['messages_total']:.0f}")
        channel.queue_delete(exchange)
        channel.exchange_delete(exchange)
    return seen["events_total"], seconds, cpu, brokers


def rate(options, server, broker, folder):
    """The median rate to one queue."""
    if server.load(options, "--operations", options.events, "--connections", 8, "--streams", 100).wait() not in (0, 1):
        sys.exit("bench-events: the load has failed")
    runs = {cell: [] for cell in CELLS}
    for _ in range(options.repetitions):
        for cell in CELLS:
            runs[cell].append(one_run(options, server, broker, folder, *cell))
    for (place, form), figures in runs.items():
        rates = [events / seconds for events, seconds, _, _ in figures]
        relay, other = ([1e6 * figure[index] / figure[0] for figure in figures] for index in (2, 3))
        print(f"{place:14} {form:8}  {statistics.median(rates):8.0f} events/s ({min(rates):.0f}-{max(rates):.0f})  relay "
              f"{statistics.median(relay):5.2f} us/event ({min(relay):.2f}-{max(relay):.2f})  broker "
              f"{statistics.median(other):5.1f} us/event", flush=True)
    return statistics.median(events / seconds for events, seconds, _, _ in runs["one queue", "json"])


class Sample(threading.Thread):
    """A consumer of some items."""

    def __init__(self, broker, exchange):
        super().__init__(daemon=True)
        self.delays, self.connection = [], broker.connect()
        self.channel = self.connection.channel()
        self.channel.exchange_declare(exchange, "topic", durable=True)
        # One routing key in fifty, and a queue for the rest.
        self.channel.exchange_declare(f"{exchange}.hash", "x-consistent-hash", durable=True)
        self.channel.exchange_bind(f"{exchange}.hash", exchange, "#")
        for queue, weight in (("sample", "1"), ("rest", "49")):
            self.channel.queue_declare(f"{exchange}.{queue}", durable=True, arguments={"x-max-length": 100_000})
            self.channel.queue_bind(f"{exchange}.{queue}", f"{exchange}.hash", weight)
        self.channel.basic_consume(f"{exchange}.sample", self.take, auto_ack=True)

    def take(self, channel, method, properties, body):
        decided = datetime.datetime.fromisoformat(properties.headers["cloudEvents_time"][:26].rstrip("Z") + "+00:00")
        self.delays.append(time.time() - decided.timestamp())

    def run(self):
        try:
            self.channel.start_consuming()
        except pika.exceptions.AMQPError:
            pass

    def end(self):
        self.connection.add_callback_threadsafe(self.channel.stop_consuming)
        self.join(10)
        return sorted(self.delays)


def delay(options, server, broker, folder, per_second):
    medians, tails = [], []
    for _ in range(options.repetitions):
        exchange = f"bench-{time.monotonic_ns()}"
        sample = Sample(broker, exchange)
        relay = Relay(options, server, broker, folder, exchange, "--from", "now")
        sample.start()
        load = server.load(options, "--rate", int(per_second), "--duration", f"{options.seconds}s")
        if load.wait() not in (0, 1):
            sys.exit("bench-events: the load has failed")
        while relay.metrics()["unconfirmed"] > 0:
            time.sleep(0.05)
        relay.stop()
        delays = sample.end()
        if len(delays) < 100:
            sys.exit("bench-events: the sample is too small")
        medians.append(1000 * delays[len(delays) // 2])
        tails.append(1000 * delays[len(delays) * 99 // 100])
    print(f"delay at {per_second:.0f} events/s: p50 {statistics.median(medians):.1f} ms, p99 {statistics.median(tails):.1f} ms "
          f"({min(tails):.1f}-{max(tails):.1f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=float, help="of the delay, in place of half of what was measured")
    parser.add_argument("--only", default="rate,delay", type=lambda text: text.split(","))
    parser.add_argument("--program", type=pathlib.Path, default=RELEASE / "holdfast")
    parser.add_argument("--load", type=pathlib.Path, default=RELEASE / "holdfast-load")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-bench-"))
    # The broker's user has to get at its own folder in it.
    folder.chmod(0o711)
    broker = server = None
    try:
        broker, server = Broker(folder / "broker"), Server(options, folder)
        measured = rate(options, server, broker, folder) if "rate" in options.only else 0
        if "delay" in options.only:
            delay(options, server, broker, folder, options.rate or measured / 2 or 10_000)
    finally:
        for each in (server, broker):
            if each:
                each.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
