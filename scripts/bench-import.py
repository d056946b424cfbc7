#!/usr/bin/env python3
"""How fast an import is, from a client in Python (grpcio): rows of new items over one ImportStock, on the disk.

    bench-import.py [--rows N] [--durability fsync] [--repetitions N] [--bar SECONDS] [--server PATH]

The time is from the first message to the answer, which comes once all rows are durable; the client makes its messages
meanwhile, 500 rows each. Meanwhile another client reads one item over and over: its longest wait is a figure. Exit
status 1 where the median of the repetitions is above the bar, or rows are missing. The data directory is made in a
temporary folder of --folder, which must be on the disk that is meant.
"""
import argparse, importlib.resources, pathlib, re, signal, statistics, subprocess, sys, tempfile, threading, time

import grpc
from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent.parent
ROWS_PER_MESSAGE = 500


def generate_stubs(folder):
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    protos = sorted((HERE / "proto/holdfast").rglob("*.proto"))
    if protoc.main(["protoc", f"-I{HERE / 'proto'}", f"-I{well_known}", f"--python_out={folder}",
                    f"--grpc_python_out={folder}", *map(str, protos)]):
        sys.exit("bench-import: no stubs")
    sys.path.insert(0, str(folder))


def messages(stock_pb2, rows):
    for first in range(0, rows, ROWS_PER_MESSAGE):
        request = stock_pb2.ImportStockRequest(import_id="bench", first_row=first)
        for number in range(first, min(first + ROWS_PER_MESSAGE, rows)):
            request.rows.add(sku=f"sku-{number:07d}", set_on_hand=number % 1000, any_version=True)
        yield request


def run(options, folder):
    from holdfast.v1 import stock_pb2, stock_pb2_grpc
    data = tempfile.mkdtemp(dir=folder)
    command = [options.server, "serve", "--port", "0", "--admin-port", "0", "--durability", options.durability]
    if options.durability != "memory":
        command += ["--data-dir", data]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        found = re.search(r"grpc (\S+) admin (\S+) pid (\d+)", process.stdout.readline())
        if not found:
            sys.exit("bench-import: the server did not come up")
        waits, stop = [], threading.Event()

        def read():
            with grpc.insecure_channel(found[1], [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = stock_pb2_grpc.StockServiceStub(channel)
                request = stock_pb2.BatchGetStockRequest(items=[stock_pb2.StockItem(sku="sku-0000000")])
                while not stop.wait(0.01):
                    began = time.monotonic()
                    stub.BatchGetStock(request)
                    waits.append(time.monotonic() - began)

        reader = threading.Thread(target=read)
        with grpc.insecure_channel(found[1]) as channel:
            stub = stock_pb2_grpc.StockServiceStub(channel)
            reader.start()
            began, client = time.monotonic(), time.process_time()
            answer = stub.ImportStock(messages(stock_pb2, options.rows))
            seconds, client = time.monotonic() - began, time.process_time() - client
            stop.set()
            reader.join()
        if (answer.next_row, answer.changed, answer.failed) != (options.rows, options.rows, 0):
            sys.exit(f"bench-import: rows are missing: {answer}")
        cpu = sum(map(int, pathlib.Path(f"/proc/{found[3]}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / 100
        print(f"{options.rows} rows in {seconds:.2f} s: {options.rows / seconds:,.0f} rows/s; CPU of the server "
              f"{cpu * 1e6 / options.rows:.2f} us a row, of the client {client * 1e6 / options.rows:.2f}; another client's longest wait {max(waits, default=0) * 1e3:.0f} ms")
        return seconds
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--bar", type=float, default=10.0)
    parser.add_argument("--server", default=str(HERE / ".build/release/holdfast"))
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-import-", dir=options.folder) as folder:
        generate_stubs(folder)
        seconds = statistics.median(run(options, folder) for _ in range(options.repetitions))
    print(f"median {seconds:.2f} s, bar {options.bar:.2f} s")
    sys.exit(seconds > options.bar)


if __name__ == "__main__":
    main()
