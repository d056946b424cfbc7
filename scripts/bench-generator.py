#!/usr/bin/env python3
"""What a request costs the generator: holdfast-load beside h2load, against the same floor server, interleaved.

    bench-generator.py [--repetitions N] [--requests N]

Both make the same number of unary calls with one thread, at 8 connections x 100 streams and at 256 x 1; the
figure is the CPU time of the whole process, user and system, by request. holdfast-load gives each call a key of
its own, takes it down in its ledger, and counts its latency; h2load sends one constant body. The bar: no more than h2load.
Needs cc, libnghttp2's headers and h2load (Debian's nghttp2-client). Exit status 1 where the bar is missed.
"""
import argparse, pathlib, resource, shutil, socket, statistics, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent.parent
LOAD = HERE / ".build/release/holdfast-load"
PATH = "/holdfast.v1.ReservationService/Reserve"
SHAPES = [(8, 100), (256, 1)]
BODY_BYTES = 60  # about what holdfast-load's Reserve of one line has


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_floor(folder):
    floor = folder / "floor"
    subprocess.run(["cc", "-O2", "-o", floor, HERE / "tools/bench/floor.c", "-lnghttp2"], check=True)
    port = free_port()
    process = subprocess.Popen([floor, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit("bench-generator: the floor server did not come up")


def cpu_microseconds(command, requests):
    """CPU time of the finished child, by request."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"bench-generator: {command[0]} failed:\n{done.stdout}{done.stderr}")
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e6 / requests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--requests", type=int, default=1_000_000, help="at 8 x 100; a fifth of it at 256 x 1")
    options = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("bench-generator: no h2load; it is in Debian's nghttp2-client")
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        body = folder / "body"
        # One gRPC message: not compressed, its length, and that many bytes.
        body.write_bytes(bytes([0]) + (BODY_BYTES - 5).to_bytes(4, "big") + bytes(BODY_BYTES - 5))
        floor, port = start_floor(folder)
        try:
            for connections, streams in SHAPES:
                requests = options.requests if streams > 1 else options.requests // 5
                requests -= requests % connections
                h2load = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-n{requests}", "-d", body,
                          "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{PATH}"]
                ours = [LOAD, "run", "--target", f"127.0.0.1:{port}", "--no-verify", "--threads", 1, "--connections",
                        connections, "--streams", streams, "--operations", requests, "--duplicate-share", 0]
                theirs_all, ours_all, ratios = [], [], []
                for turn in range(options.repetitions):
                    # The order turns over, so that neither always runs on what the other has warmed.
                    pair = [(theirs_all, h2load), (ours_all, ours)]
                    for figures, command in pair if turn % 2 == 0 else reversed(pair):
                        figures.append(cpu_microseconds(command, requests))
                    ratios.append(ours_all[-1] / theirs_all[-1])
                ratio = statistics.median(ratios)
                verdict = "good" if ratio <= 1 else "MISSED"
                missed |= ratio > 1
                print(f"{connections} x {streams}: h2load {statistics.median(theirs_all):.2f} us, holdfast-load "
                      f"{statistics.median(ours_all):.2f} us CPU per request; ratio {ratio:.2f} "
                      f"({min(ratios):.2f} to {max(ratios):.2f}); bar 1.00: {verdict}", flush=True)
        finally:
            floor.kill()
            floor.wait()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
