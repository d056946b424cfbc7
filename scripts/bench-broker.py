#!/usr/bin/env python3
"""What a message through RabbitMQ costs our side of the connection: broker-benchmark against a broker of its own.

    bench-broker.py [--messages N] [--window N] [--repetitions N] [--bar NANOSECONDS]

The broker runs on CPU 0, the client on CPU 1, where there are two. Prints the rates and the CPU of each repetition. Exit
status 1 where the median of a published message costs more than the bar: 5,000 ns, half a core at 100,000 messages a second.
"""
import argparse, os, pathlib, re, shutil, statistics, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
BENCHMARK = HERE / ".build/release/broker-benchmark"
COMMAND_SECONDS = 600


def pinned(cpu, *command):
    return ["taskset", "-c", str(cpu), *map(str, command)] if os.cpu_count() > 1 else [*map(str, command)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--window", type=int, default=10_000, help="messages that may be unconfirmed")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--bar", type=int, default=5_000)
    parser.add_argument("--benchmark", type=pathlib.Path, default=BENCHMARK)
    options = parser.parse_args()
    parent = pathlib.Path(tempfile.mkdtemp(prefix="bench-broker-"))
    # The user rabbitmq has to get at it.
    parent.chmod(0o711)
    broker = subprocess.Popen(pinned(0, sys.executable, HERE / "scripts/broker.py", "run", parent / "broker"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    costs = []
    try:
        address, password_file = (broker.stdout.readline().strip() for _ in range(2))
        if not address:
            sys.exit("bench-broker: the broker does not come up")
        environment = {**os.environ, "HOLDFAST_BROKER_PASSWORD": pathlib.Path(password_file).read_text()}
        for _ in range(options.repetitions):
            done = subprocess.run(pinned(1, options.benchmark, address, options.messages, options.window), text=True,
                                  stdout=subprocess.PIPE, env=environment, timeout=COMMAND_SECONDS)
            print(done.stdout, end="", flush=True)
            found = re.search(r"^published .* (\d+) ns", done.stdout, re.MULTILINE)
            if done.returncode != 0 or not found:
                sys.exit("bench-broker: it failed")
            costs.append(int(found[1]))
    finally:
        broker.terminate()
        broker.wait(COMMAND_SECONDS)
        shutil.rmtree(parent, ignore_errors=True)
    print(f"a published message: {statistics.median(costs):.0f} ns of a processor, of {options.bar} that it may cost")
    return 0 if statistics.median(costs) <= options.bar else 1


sys.exit(main())
