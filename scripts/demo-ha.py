#!/usr/bin/env python3
"""High availability, end to end, on one machine: an engine of three PostgreSQL servers, two holdfast servers, and load.

Kills the owner under load, and removes its data; a standby takes over. Kills the primary, and has a standby of it promoted;
the owner goes on. Then the load generator says whether anything that was acknowledged is lost or wrong. Everything is
stopped and removed. The exit status is the verdict's: 0 every invariant holds, 1 violated, 2 could not run.
"""
import argparse, json, pathlib, re, shutil, signal, subprocess, sys, time, urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "Tests" / "EndToEnd"))

from engines import Engine  # noqa: E402
from lifetime import Folder, tied  # noqa: E402
from server import Server, eventually  # noqa: E402

TAKEOVER_SECONDS = 60


def say(text):
    print(f"demo-ha: {text}", flush=True)


def decisions(server):
    """Decisions that it has acknowledged."""
    page = urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=20).read().decode()
    return sum(float(number) for number in re.findall(r'^holdfast_reservations_total{.*} (\S+)$', page, re.MULTILINE))


def wait_for_more(server, than=0):
    eventually(lambda: decisions(server) > than, TAKEOVER_SECONDS)


def demo(options, folder, started):
    say("starting PostgreSQL: a primary, and two standbys of which any one must have a commit")
    engine = Engine()
    started.append(engine)
    engine.make_tables(options.server)

    def serve(name, *flags):
        server = Server(options.server, "--durability", "quorum", "--engine", engine.url, *flags, data=folder / name,
                        environment=engine.environment)
        started.append(server)
        return server

    owner = serve("one")
    standby = serve("two", "--standby")
    say(f"owner {owner.target}, standby {standby.target}, engine {engine.url}")
    report, ledger = folder / "report.json", folder / "ledger"
    load = subprocess.Popen(
        tied(options.generator, "run", "--target", f"{owner.target},{standby.target}", "--scenario", "mixed", "--warm-up", "0",
             "--duration", "600", "--retries-unknown", "true", "--history", ledger, "--json", report),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_more(owner)
        time.sleep(options.seconds)
        say(f"{decisions(owner):,.0f} decisions; kill -9 of the owner, and its data removed")
        began = time.monotonic()
        owner.kill()
        shutil.rmtree(owner.data)
        eventually(standby.owns.is_set, TAKEOVER_SECONDS)
        wait_for_more(standby, than=0)
        say(f"the standby has taken over, and decides after {time.monotonic() - began:.1f} s")
        serve("three", "--standby")
        time.sleep(options.seconds)
        say("kill -9 of the primary; a standby of PostgreSQL's is promoted")
        began = time.monotonic()
        engine.do("kill", "the-primary")
        engine.promote()
        # What had been decided before is counted once the new primary has it.
        wait_for_more(standby, than=decisions(standby))
        say(f"the owner goes on after {time.monotonic() - began:.1f} s")
        time.sleep(options.seconds)
        load.send_signal(signal.SIGINT)
        output = load.communicate(timeout=120)[0]
    finally:
        load.kill()
    print(output)
    if not report.exists():
        return 2
    verdict = json.loads(report.read_text())["verdict"]["result"]
    say("every call of the run again: the owner must repeat what was acknowledged")
    audit = subprocess.run([options.generator, "audit", ledger, "--target", standby.target]).returncode
    return {"good": audit, "violated": 1}.get(verdict, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2, help="load before, between and after the two kills")
    parser.add_argument("--server", default=REPOSITORY / ".build/release/holdfast")
    parser.add_argument("--generator", default=REPOSITORY / ".build/release/holdfast-load")
    options = parser.parse_args()
    folder, started = Folder("holdfast-demo-"), []
    try:
        status = demo(options, folder.path, started)
    except (RuntimeError, AssertionError, OSError) as error:
        say(f"could not run: {error}")
        status = 2
    finally:
        for each in reversed(started):
            (each.kill if isinstance(each, Server) else each.stop)()
        folder.remove()
    say({0: "GOOD: nothing acknowledged was lost", 1: "VIOLATED"}.get(status, "no verdict"))
    sys.exit(status)


if __name__ == "__main__":
    main()
