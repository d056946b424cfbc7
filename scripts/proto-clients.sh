#!/usr/bin/env bash
# Generates clients in every language from proto/ (proto/buf.gen.yaml) below out/clients, and compiles or loads those in
# Go, Java, Python and Ruby with the libraries that Debian packages: shows that proto/ is enough for each. C++ and Swift
# are compiled by `make test-clients`, as all that is in examples/.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$PWD/out/clients

make -C examples/swift plugins
template=$(cat proto/buf.gen.yaml)
if ! command -v grpc_csharp_plugin >/dev/null; then
  echo "C#: no grpc_csharp_plugin here: messages alone"
  template=$(sed '/local: grpc_csharp_plugin/,+1d' proto/buf.gen.yaml)
fi
(cd proto && ../.venv/bin/buf generate --template "$template")
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

echo "Ruby"
ruby -I "$out/ruby" -e 'Dir["'"$out"'/ruby/holdfast/v1/*_services_pb.rb"].each { |path| require path }'

for language in cpp csharp swift; do
  ls "$out/$language" >/dev/null
done
echo "all of proto/ generates; what is compiled here, compiles: $out"
