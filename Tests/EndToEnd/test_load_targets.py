"""The load generator and servers that take over from each other: several addresses, of which one decides."""

import concurrent.futures
import json
import subprocess
import time

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from server import eventually


class Standby:
    """Answers every call as a standby does, and counts them."""

    def __init__(self, owner="", port=0):
        info = error_details_pb2.ErrorInfo(reason="NOT_OWNER", domain="holdfast", metadata={"owner": owner})
        detail = any_pb2.Any()
        detail.Pack(info)
        status = status_pb2.Status(code=14, message="this server is a standby", details=[detail])
        self.calls = 0

        def refuse(_, context):
            self.calls += 1
            context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
            context.abort(grpc.StatusCode.UNAVAILABLE, "this server is a standby")

        class Handler(grpc.GenericRpcHandler):
            def service(self, _):
                return grpc.unary_unary_rpc_method_handler(refuse)

        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), [Handler()])
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.target = f"127.0.0.1:{self.port}"
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()


def run(generator, *arguments):
    return subprocess.run([generator, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def test_a_standby_names_the_owner(generator, start, tmp_path):
    owner = start("--durability", "memory")
    report = tmp_path / "report.json"
    # The one that is named is not the next: nobody listens there.
    with Standby(owner.target) as standby:
        targets = f"{standby.target},127.0.0.1:1,{owner.target}"
        done = run(generator, "run", "--target", targets, "--operations", 2000, "--json", report)
        assert done.returncode == 0, done.stdout + done.stderr
        assert standby.calls == 1
    assert "nothing oversold, nothing lost" in done.stdout, done.stdout
    target = json.loads(report.read_text())["configuration"]["target"]
    assert sorted(target.split(",")) == sorted(targets.split(","))


def test_nobody_decides(generator):
    with Standby() as one, Standby() as other:
        done = run(generator, "prepare", "--target", f"{one.target},{other.target}", "--skus", 1)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "2 servers, and none is the owner" in done.stderr, done.stderr


def test_a_run_goes_on_over_a_takeover(generator, start, tmp_path):
    """The owner is killed; a while later another server has its data, where a standby was."""
    owner = start(data=tmp_path / "data")
    history = tmp_path / "history"
    with Standby(owner.target) as standby:
        targets = f"{owner.target},{standby.target}"
        load = subprocess.Popen(
            [generator, "run", "--target", targets, "--scenario", "mixed", "--duration", "6", "--connections", "4",
             "--history", history], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(2.5)
        owner.kill()
        eventually(lambda: standby.calls > 20)
    heir = start("--port", str(standby.port), data=tmp_path / "data")
    text, _ = load.communicate(timeout=180)
    assert load.returncode == 0, text
    assert "nothing oversold, nothing lost" in text and "ended early" not in text, text
    done = run(generator, "audit", history, "--target", f"{owner.target},{heir.target}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 lost" in done.stdout, done.stdout
