"""proto/ beside the official packages, and what tools make of it and of server reflection."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.rpc import status_pb2
import grpc
from client import fresh, line
from grpc_reflection.v1alpha import reflection_pb2

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUF = pathlib.Path(sys.executable).parent / "buf"


def test_every_reason_is_listed():
    """Clients branch on the reason of an ErrorInfo, so each that the source has stands in the API's comments."""
    source = "".join((REPOSITORY / "Sources" / path).read_text() for path in [
        "GRPC/Rejection.swift", "ReservationService/Authorization.swift", "ReservationService/ErrorReplies.swift"])
    reasons = {reason for reason in re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)"', source)}
    assert len(reasons) > 30
    text = "".join(path.read_text() for path in (REPOSITORY / "proto").rglob("*.proto"))
    assert not {reason for reason in reasons if not re.search(rf"\b{reason}\b", text)}


def test_it_loads_beside_every_official_package(tmp_path):
    """In a process of its own: all of proto/, google.rpc, grpcio-status, health and reflection."""
    protos = [str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-Iproto", f"--python_out={tmp_path}",
                    f"--grpc_python_out={tmp_path}", *protos], cwd=REPOSITORY, check=True)
    modules = [path[:-len(".proto")].replace("/", ".") + suffix for path in protos for suffix in ("_pb2", "_pb2_grpc")]
    official = ["google.rpc.status_pb2", "google.rpc.error_details_pb2", "grpc_status.rpc_status",
                "grpc_health.v1.health_pb2_grpc", "grpc_reflection.v1alpha.reflection_pb2_grpc"]
    for order in (official + modules, modules + official):
        done = subprocess.run([sys.executable, "-c", "".join(f"import {module}\n" for module in order)],
                              env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tool, option, package", [
    ("protoc-gen-go", "--go_out", "package holdfastv1"),
    ("protoc-gen-go-grpc", "--go-grpc_out", "package holdfastv1"),
    ("protoc", "--java_out", "package holdfast.v1;"),
    ("protoc", "--ruby_out", "module V1"),
    ("protoc", "--cpp_out", "namespace holdfast"),
    ("protoc", "--csharp_out", "namespace Holdfast.V1"),
])
def test_it_generates(tmp_path, tool, option, package):
    if not shutil.which(tool):
        pytest.skip(f"no {tool} here; `make proto-clients` installs it, and compiles what is generated")
    protos = [str(path.relative_to(REPOSITORY / "proto")) for path in (REPOSITORY / "proto").rglob("*.proto")]
    done = subprocess.run(["protoc", "-Iproto", "-I/usr/include", f"{option}={tmp_path}", *protos],
                          cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert made and all(package in path.read_text() for path in made)


@pytest.mark.parametrize("change, broken", [
    (("int64 held = 4;", "int64 held = 14;"), 'field "4"'),
    (("rpc GetStock(", "rpc ReadStock("), "GetStock"),
    (("uint64 version = 7;", "uint64 version = 7;\n  int64 later = 99;"), None),
])
def test_what_breaks_clients_of_the_last_release_is_found(tmp_path, change, broken):
    shutil.copytree(REPOSITORY / "proto", tmp_path / "proto")
    path = tmp_path / "proto/holdfast/v1/stock.proto"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    done = subprocess.run([BUF, "breaking", "--against", "released.txtpb"], cwd=tmp_path / "proto",
                          capture_output=True, text=True)
    assert (done.returncode == 0) == (broken is None), done.stdout + done.stderr
    assert broken is None or broken in done.stdout


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_error_details_are_messages_through_reflection(client, version):
    """As grpcurl does: fetch the type of each detail, ask for its extensions, decode it with that alone."""
    ask = client.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString)
    with pytest.raises(grpc.RpcError) as failed:
        client.reserve(line(fresh(), 1), key="")
    encoded = dict(failed.value.trailing_metadata())["grpc-status-details-bin"]
    seen = {}
    for detail in status_pb2.Status.FromString(encoded).details:
        name = detail.type_url.rsplit("/", 1)[1]
        file, extensions = ask(iter([
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
            reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type=name)]), timeout=10)
        assert extensions.HasField("all_extension_numbers_response")
        assert extensions.all_extension_numbers_response.base_type_name == name
        assert not extensions.all_extension_numbers_response.extension_number
        pool = descriptor_pool.DescriptorPool()
        for proto in reversed(file.file_descriptor_response.file_descriptor_proto):
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(proto))
        seen[name] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name)).FromString(detail.value)
    assert seen["google.rpc.ErrorInfo"].reason == "INVALID_FIELD"
    assert seen["google.rpc.BadRequest"].field_violations[0].field == "idempotency_key"


def test_buf_curl_calls_and_names_the_details(server):
    """buf prints details as base64 whatever the server says; their types it names."""
    done = subprocess.run(
        [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", "{}",
         f"http://{server.target}/holdfast.v1.ReservationService/Reserve"],
        cwd=REPOSITORY / "proto", capture_output=True, text=True, timeout=60)
    assert '"type": "google.rpc.ErrorInfo"' in done.stderr and '"type": "google.rpc.BadRequest"' in done.stderr


@pytest.mark.skipif(not shutil.which("grpcurl"), reason="no grpcurl here")
def test_grpcurl_shows_details_as_messages(server):
    done = subprocess.run(["grpcurl", "-plaintext", "-d", "{}", server.target,
                           "holdfast.v1.ReservationService/Reserve"], capture_output=True, text=True, timeout=60)
    assert '"reason":"INVALID_FIELD"' in done.stderr and '"field":"idempotency_key"' in done.stderr
    assert "not recognized" not in done.stderr
