#!/usr/bin/env python3
"""How fast `holdfast intake` takes orders from a RabbitMQ on this machine, and what an order costs each of the three.

    bench-intake.py [--orders N] [--form protobuf|json] [--prefetch N] [--repetitions N] [--bar-cpu MICROSECONDS]
                    [--bar-rate N] [--durability memory|fsync] [--server PATH] [--folder FOLDER]

The queues are filled first, with the intake stopped: what publishes takes no part. Then the intake is started, and between
a tenth and nine tenths of the orders it is looked at: orders answered and confirmed per second, and the CPU time of intake,
broker and server. Exit status 1 where the median of the repetitions takes more CPU of the intake than the bar, unless it
does as many orders a second as the other bar; or where an order is not answered.
"""
import argparse, importlib.resources, multiprocessing, pathlib, re, statistics, subprocess, sys, tempfile, time, urllib.error, urllib.request

import grpc
import pika
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent.parent
SKUS, PARTITIONS, PUBLISHERS = 1000, 4, 2
TICK = 100  # of /proc, by sysconf on every Linux


def generate_stubs(folder):
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    protos = sorted((HERE / "proto/holdfast").rglob("*.proto"))
    if protoc.main(["protoc", f"-I{HERE / 'proto'}", f"-I{well_known}", f"--python_out={folder}",
                    f"--grpc_python_out={folder}", *map(str, protos)]):
        sys.exit("bench-intake: no stubs")
    sys.path.insert(0, str(folder))


def cpu_seconds(pid):
    """User and system, of all threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Page:
    """The intake's metrics."""

    def __init__(self, admin):
        self.admin = admin

    def read(self):
        text = urllib.request.urlopen(f"{self.admin}/metrics", timeout=10).read().decode()
        value = lambda name: float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)[1])
        done = value("holdfast_intake_order_seconds_count")
        return done, value("process_cpu_seconds_total"), value("holdfast_intake_batched_orders_total") / max(
            1, value("holdfast_intake_batches_total"))


class Broker:
    def __init__(self, folder):
        self.process = subprocess.Popen([sys.executable, HERE / "scripts/broker.py", "run", folder], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, text=True)
        self.address, self.password_file, pid, _ = (self.process.stdout.readline().strip() for _ in range(4))
        if not self.address:
            sys.exit("bench-intake: the broker does not come up")
        self.pid = int(pid)
        host, _, port = self.address.rpartition("@")[2].rpartition(":")
        user = self.address.partition("://")[2].partition("@")[0]
        self.parameters = (host, int(port.partition("/")[0]), "/", user, pathlib.Path(self.password_file).read_text())

    def stop(self):
        self.process.terminate()
        self.process.wait()


def connect(parameters):
    host, port, virtual_host, user, password = parameters
    return pika.BlockingConnection(pika.ConnectionParameters(host, port, virtual_host, pika.PlainCredentials(user, password)))


def publish(parameters, form, first, end):
    """Orders first..<end, as a shop would write them, and waits until the broker has them."""
    connection = connect(parameters)
    channel = connection.channel()
    properties = pika.BasicProperties(content_type=f"application/{form}", type="OrderPlaced", delivery_mode=2)
    for number in range(first, end):
        order, sku = f"order-{number:09}", f"sku-{number % SKUS:04}"
        if form == "json":
            body = f'{{"orderId":"{order}","lines":[{{"sku":"{sku}","quantity":"1"}}]}}'.encode()
        else:
            # OrderPlaced {order_id = 1, lines = 2 {sku = 1, quantity = 3}}
            line = b"\x0a\x08" + sku.encode() + b"\x18\x01"
            body = b"\x0a\x0f" + order.encode() + b"\x12" + bytes([len(line)]) + line
        channel.basic_publish("orders", sku, body, properties)
    # A reply comes behind everything that was sent.
    channel.confirm_delivery()
    channel.basic_publish("", "bench-nobody", b"")
    connection.close()


def fill(broker, form, count):
    share = count // PUBLISHERS
    processes = [multiprocessing.Process(target=publish, args=(broker.parameters, form, number * share, (number + 1) * share))
                 for number in range(PUBLISHERS)]
    for each in processes:
        each.start()
    for each in processes:
        each.join()
    with connect(broker.parameters) as connection:
        channel = connection.channel()
        while (waiting := sum(channel.queue_declare(f"orders.{number}", passive=True).method.message_count
                              for number in range(PARTITIONS))) < share * PUBLISHERS:
            time.sleep(0.1)
    return waiting


class Program:
    def __init__(self, binary, ready, *arguments):
        self.process = subprocess.Popen([binary, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.found = re.match(ready, self.process.stdout.readline())
        if not self.found:
            sys.exit(f"bench-intake: {arguments[0]} does not come up")
        self.pid = self.process.pid

    def stop(self):
        self.process.terminate()
        self.process.wait()


def start_intake(options, broker, target):
    return Program(options.server, r".* admin (http://\S+) pid", "intake", "--broker", broker.address, "--broker-password-file",
                   broker.password_file, "--target", target, "--partitions", PARTITIONS, "--prefetch", options.prefetch,
                   "--batch", options.batch, "--admin-port", "0")


def add_stock(target, units):
    from holdfast.v1 import stock_pb2, stock_pb2_grpc

    with grpc.insecure_channel(target) as channel:
        stub = stock_pb2_grpc.StockServiceStub(channel)
        rows = [stock_pb2.AdjustStockRequest(sku=f"sku-{number:04}", set_on_hand=units, any_version=True) for number in range(SKUS)]
        stub.ImportStock(iter([stock_pb2.ImportStockRequest(import_id="bench", first_row=first, rows=rows[first:first + 500])
                               for first in range(0, SKUS, 500)]))


def measure(options, folder):
    """(orders a second, CPU microseconds of intake, broker and server for each, orders in a batch)."""
    server = Program(options.server, r"holdfast ready: grpc (\S+) ", "serve", "--port", "0", "--admin-port", "0", "--durability",
                     options.durability, *([] if options.durability == "memory" else ["--data-dir", f"{folder}/data"]))
    broker = Broker(f"{folder}/broker")
    try:
        target = server.found[1]
        add_stock(target, options.orders)
        declared = start_intake(options, broker, target)
        page = Page(declared.found[1])
        while urllib.request.urlopen(urllib.request.Request(f"{page.admin}/livez"), timeout=10).status != 200 or not is_ready(page.admin):
            time.sleep(0.1)
        declared.stop()
        count = fill(broker, options.form, options.orders)
        return run(options, broker, server, target, count)
    finally:
        server.stop()
        broker.stop()


def is_ready(admin):
    try:
        return urllib.request.urlopen(f"{admin}/readyz", timeout=10).status == 200
    except urllib.error.HTTPError:
        return False


def run(options, broker, server, target, count):
    intake = start_intake(options, broker, target)
    page = Page(intake.found[1])
    marks, last = [], (time.monotonic(), 0)
    try:
        while True:
            done, cpu, batch = page.read()
            now = time.monotonic()
            if (len(marks) == 0 and done >= count * 0.1) or (len(marks) == 1 and done >= count * 0.9):
                marks.append((now, done, cpu, cpu_seconds(broker.pid), cpu_seconds(server.pid)))
            if done >= count:
                break
            if done > last[1]:
                last = (now, done)
            if now - last[0] > 60:
                sys.exit(f"bench-intake: {count - done:.0f} orders are not answered")
            time.sleep(0.05)
    finally:
        intake.stop()
    (start, first, *before), (end, final, *after) = marks
    orders = final - first
    return (orders / (end - start), *((b - a) * 1e6 / orders for a, b in zip(before, after)), batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=200_000)
    parser.add_argument("--form", choices=["protobuf", "json"], default="protobuf")
    parser.add_argument("--prefetch", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--bar-cpu", type=float, default=20)
    parser.add_argument("--bar-rate", type=float, default=50_000)
    parser.add_argument("--durability", choices=["memory", "fsync"], default="fsync")
    parser.add_argument("--server", default=HERE / ".build/release/holdfast")
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as stubs:
        generate_stubs(stubs)
        rows = []
        print(f"{'orders/s':>10} {'intake µs':>10} {'broker µs':>10} {'server µs':>10} {'a batch':>8}")
        for _ in range(options.repetitions):
            with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
                # The broker's user has to get through.
                pathlib.Path(folder).chmod(0o711)
                rows.append(measure(options, folder))
            print("{:>10.0f} {:>10.1f} {:>10.1f} {:>10.1f} {:>8.0f}".format(*rows[-1]), flush=True)
    rate, cpu, *rest = (statistics.median(column) for column in zip(*rows))
    print(f"median: {rate:.0f} orders/s; CPU of an order: intake {cpu:.1f} µs, broker {rest[0]:.1f}, server {rest[1]:.1f}: "
          f"{1e6 / cpu:.0f} orders/s on one core of the intake")
    return 0 if cpu <= options.bar_cpu or rate >= options.bar_rate else 1


if __name__ == "__main__":
    sys.exit(main())
