#!/usr/bin/env bash
# Installs what the build needs and is missing; silent when nothing is.
#
#   scripts/bootstrap.sh         what `make demo` needs: seven C libraries and pkg-config
#   scripts/bootstrap.sh --dev   also what `make test`, `make demo-ha` and `make demo-orders` need: protobuf compilers, Prometheus, the
#                                servers of PostgreSQL and RabbitMQ, and a Python environment in .venv for the end-to-end tests
#                                and buf
#   scripts/bootstrap.sh --bench      what measuring needs: a C compiler, taskset, h2load, python3
#   scripts/bootstrap.sh --proxies   also what `make test-proxies` needs: nginx, HAProxy, and Envoy in .venv-proxies
#   scripts/bootstrap.sh --ha        also what scripts/patroni.py needs: Patroni and etcd, and a newer Patroni in .venv-patroni
#   scripts/bootstrap.sh --package   what packaging and `make test-package` need: dpkg-dev, lintian, debootstrap, mandoc, strace, shells
#   scripts/bootstrap.sh --browser   also what `make test-console` needs: Chromium and its driver, and .venv-browser
#   scripts/bootstrap.sh --clients   also what `make proto-clients` and `make test-clients` need: Go, Java, Ruby, a C++ compiler,
#                                    their libraries; in .venv-clients grpcurl, and parsers for what is not run
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "bootstrap: $*" >&2; }
stop() { say "$*"; exit 1; }

# One line per need: a command that succeeds where it is met, then the Debian package that meets it.
needs=(
  "command -v pkg-config|pkg-config"
  "pkg-config --exists libprotobuf-c|libprotobuf-c-dev"
  "pkg-config --exists zlib|zlib1g-dev"
  "pkg-config --exists 'openssl >= 3.0'|libssl-dev"
  "pkg-config --exists libpq|libpq-dev"
  "pkg-config --exists librabbitmq|librabbitmq-dev"
  "pkg-config --exists rdkafka|librdkafka-dev"
)
development_needs=(
  "pkg-config --exists libnghttp2|libnghttp2-dev"
  "command -v protoc-c|protobuf-c-compiler"
  "command -v protoc|protobuf-compiler"
  "test -e /usr/include/google/protobuf/duration.proto -o ! -e /etc/debian_version|libprotobuf-dev"
  "test -e /usr/share/grpc-proto/grpc/health/v1/health.proto -o ! -e /etc/debian_version|grpc-proto"
  "command -v promtool && command -v prometheus|prometheus"
  "command -v curl|curl"
  "command -v openssl|openssl"
  "command -v python3|python3"
  "python3 -c 'import ensurepip, venv'|python3-venv"
  "ls /usr/lib/postgresql/*/bin/initdb || command -v initdb|postgresql"
  "ls /usr/lib/rabbitmq/bin/rabbitmq-server || command -v rabbitmq-server|rabbitmq-server"
)
ha_needs=(
  "command -v /usr/bin/patroni|patroni"
  "command -v etcd|etcd-server"
  "/usr/bin/python3 -c 'import ensurepip, venv'|python3-venv"
)
bench_needs=(
  "command -v cc|gcc"
  "command -v taskset|util-linux"
  "command -v h2load|nghttp2-client"
  "command -v python3|python3"
)
proxy_needs=(
  "PATH=$PATH:/usr/sbin command -v nginx|nginx-light"
  "PATH=$PATH:/usr/sbin command -v haproxy|haproxy"
  "command -v openssl|openssl"
)
package_needs=(
  "command -v dpkg-shlibdeps|dpkg-dev"
  "command -v strip|binutils"
  "command -v python3|python3"
  "command -v lintian|lintian"
  "PATH=$PATH:/usr/sbin command -v debootstrap|debootstrap"
  "command -v mandoc|mandoc"
  "command -v strace|strace"
  "command -v systemd-analyze|systemd"
  "command -v zsh|zsh"
  "command -v fish|fish"
)
browser_needs=(
  "command -v chromium|chromium"
  "command -v chromedriver|chromium-driver"
  "command -v pngquant|pngquant"
)
client_needs=(
  "command -v go|golang-go"
  "command -v protoc-gen-go|protoc-gen-go"
  "command -v protoc-gen-go-grpc|protoc-gen-go-grpc"
  "test -e /usr/share/gocode/src/google.golang.org/protobuf/types/known|golang-google-protobuf-dev"
  "test -e /usr/share/gocode/src/google.golang.org/grpc|golang-google-grpc-dev"
  "test -e /usr/share/gocode/src/google.golang.org/genproto/googleapis/rpc/errdetails|golang-google-genproto-dev"
  # The older one knows no message of this protoc-gen-go.
  "test -e /usr/share/gocode/src/github.com/golang/protobuf/proto/registry.go|golang-github-golang-protobuf-1-5-dev"
  "command -v javac|default-jdk-headless"
  "command -v grpc_java_plugin|protobuf-compiler-grpc-java-plugin"
  "test -e /usr/share/java/protobuf.jar|libprotobuf-java"
  "test -e /usr/share/java/grpc-stub.jar|libgrpc-java"
  "test -e /usr/share/java/geronimo-annotation-1.3-spec.jar|libgeronimo-annotation-1.3-spec-java"
  "test -e /usr/share/java/netty-codec-http2.jar|libnetty-java"
  "test -e /usr/share/java/perfmark-api.jar|libperfmark-java"
  "test -e /usr/share/java/gson.jar|libgoogle-gson-java"
  "test -e /usr/share/java/proto-google-common-protos.jar|libgoogle-common-protos-java"
  "command -v ruby|ruby"
  "ruby -e 'require %(grpc)'|ruby-grpc"
  "ruby -e 'require %(google/protobuf)'|ruby-google-protobuf"
  "ruby -e 'require %(google/rpc/status_pb)'|ruby-googleapis-common-protos-types"
  "command -v grpc_ruby_plugin|protobuf-compiler-grpc"
  "command -v grpc_tools_ruby_protoc|ruby-grpc-tools"
  "pkg-config --exists grpc++|libgrpc++-dev"
  "command -v c++|g++"
  "command -v cmake|cmake"
  "command -v node|nodejs"
)

missing_packages() {
  local need
  for need in "$@"; do
    bash -c "${need%|*}" >/dev/null 2>&1 || echo "${need##*|}"
  done
}

install_packages() {
  command -v apt-get >/dev/null ||
    stop "no apt-get here; install what these Debian packages hold: $*"
  local as_root=env log
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || stop "neither root nor sudo; have these installed: $*"
    as_root="sudo env"
  fi
  say "installing $*"
  log=$(mktemp)
  { $as_root apt-get -q update &&
    $as_root DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install "$@"
  } >"$log" 2>&1 </dev/null || { cat "$log" >&2; stop "apt-get failed; its output is above"; }
  rm "$log"
}

# An environment is made anew whenever its requirements change: the stamp holds their checksum.
make_python_environment() {
  local folder=$1 requirements=Tests/EndToEnd/$2 python=${3:-python3} stamp=$1/holdfast-requirements wanted
  # With the files that it takes in.
  wanted=$(sed -n 's|^-r |Tests/EndToEnd/|p' "$requirements" | xargs cat "$requirements" | cksum)
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
  say "making $folder from $requirements"
  rm -rf "$folder"
  "$python" -m venv "$folder"
  "$folder"/bin/python -m pip --quiet --disable-pip-version-check install --no-deps -r "$requirements" \
    </dev/null
  echo "$wanted" >"$stamp"
}

command -v swift >/dev/null || stop "swift is missing; install Swift 6.2 or newer from swift.org"
case ${1:-} in
  '') ;;
  --dev) needs+=("${development_needs[@]}") ;;
  --bench) needs+=("${bench_needs[@]}") ;;
  --proxies) needs+=("${development_needs[@]}" "${proxy_needs[@]}") ;;
  --package) needs+=("${package_needs[@]}") ;;
  --ha) needs+=("${development_needs[@]}" "${ha_needs[@]}") ;;
  --browser) needs+=("${development_needs[@]}" "${browser_needs[@]}") ;;
  --clients) needs+=("${development_needs[@]}" "${client_needs[@]}") ;;
  *) stop "unknown argument $1" ;;
esac
missing=$(missing_packages "${needs[@]}" | xargs)
if [ -n "$missing" ]; then
  install_packages $missing
  missing=$(missing_packages "${needs[@]}" | xargs)
  [ -z "$missing" ] || stop "still missing after the installation: $missing"
fi
case ${1:-} in --dev | --clients | --proxies | --ha) make_python_environment .venv requirements.txt ;; esac
case ${1:-} in --browser) make_python_environment .venv-browser requirements-browser.txt ;; esac
case ${1:-} in --clients) make_python_environment .venv-clients requirements-clients.txt ;; esac
case ${1:-} in --proxies) make_python_environment .venv-proxies requirements-proxies.txt ;; esac
# With the system's Python: another may lie where the user postgres, who runs this, cannot read it.
case ${1:-} in --ha) make_python_environment .venv-patroni requirements-patroni.txt /usr/bin/python3 ;; esac
