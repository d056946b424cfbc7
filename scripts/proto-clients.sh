#!/usr/bin/env bash
# Generates clients in Go, Java and Python from proto/ (proto/buf.gen.yaml) below out/clients, and
# compiles them with the libraries that Debian packages: shows that proto/ is enough for each.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/out/clients

(cd proto && ../.venv/bin/buf generate)
# buf has no plugin for Python's services: they are grpcio-tools' own.
.venv/bin/python -m grpc_tools.protoc -Iproto --grpc_python_out="$out/python" $(cd proto && ls holdfast/v1/*.proto)

echo "Python: beside google.rpc, grpcio-status, health and reflection in one process"
PYTHONPATH=$out/python .venv/bin/python - <<'PYTHON'
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_status import rpc_status
from holdfast.v1 import reservation_pb2_grpc, stock_pb2_grpc
PYTHON

echo "Go"
GOPATH=$out/go:/usr/share/gocode GO111MODULE=off GOCACHE=$out/go-cache \
  go build holdfast/gen/holdfast/v1

echo "Java"
jars=/usr/share/java
javac -nowarn -d "$out/java-classes" \
  -cp "$jars/protobuf.jar:$jars/grpc-api.jar:$jars/grpc-stub.jar:$jars/grpc-protobuf.jar:$jars/guava.jar:$jars/geronimo-annotation-1.3-spec.jar" \
  "$out"/java/holdfast/v1/*.java
echo "all of proto/ generates and compiles: $out"
