#!/usr/bin/env python3
"""How much disk a server uses while units are held and released without end.

    disk-use.py [--minutes M] [--rate CALLS_PER_SECOND] [--retention TIME] [--folder FOLDER]

Starts a server with a data directory, runs holds that are all released, and prints what stands in the directory as
it goes. Segments are used again after each checkpoint, and ended decisions leave with their retention: what is
written grows without end, what is on the disk does not. Exit status 1 if it grew in the last half of the run.
"""
import argparse, os, pathlib, re, shutil, signal, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
MIB = 1 << 20


def metrics(admin):
    with urllib.request.urlopen(admin + "/metrics") as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[0] != "#")}


def bytes_of(folder):
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("--retention", default="30s")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "out")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(dir=options.folder)
    server = subprocess.Popen(
        [HERE / ".build/release/holdfast", "serve", "--port", "0", "--admin-port", "0", "--data-dir", folder,
         "--retention", options.retention], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        ready = re.search(r"grpc (\S+) admin (\S+) pid", server.stdout.readline())
        if not ready:
            sys.exit("disk-use: the server did not come up")
        target, admin = ready.groups()
        seconds = options.minutes * 60
        load = subprocess.Popen(
            [HERE / ".build/release/holdfast-load", "run", "--target", target, "--duration", str(seconds),
             "--rate", str(options.rate), "--confirm-share", "0", "--release-share", "1", "--skus", "100",
             "--duplicate-share", "0"], stdout=subprocess.DEVNULL)
        print("seconds   decisions  written MiB  on disk MiB  checkpoints  last took", flush=True)
        began, seen = time.monotonic(), []
        while load.poll() is None:
            now = metrics(admin)
            seen.append(bytes_of(folder))
            print(f"{time.monotonic() - began:7.0f} {now['holdfast_journal_decisions']:11.0f} "
                  f"{now['holdfast_journal_bytes_total'] / MIB:12.0f} {seen[-1] / MIB:12.0f} "
                  f"{now['holdfast_checkpoints_total']:12.0f} {now['holdfast_checkpoint_duration_seconds']:9.2f} s",
                  flush=True)
            time.sleep(seconds / 30)
        quarter = len(seen) // 4
        before, after = max(seen[quarter:2 * quarter], default=0), max(seen[3 * quarter:], default=0)
        print(f"most on disk: second quarter {before / MIB:.0f} MiB, last quarter {after / MIB:.0f} MiB")
        if load.returncode not in (0,):
            sys.exit(f"disk-use: the load ended with status {load.returncode}")
        sys.exit(after > before * 1.1)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        shutil.rmtree(folder)


main()
