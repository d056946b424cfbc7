#!/usr/bin/env bash
# Coverage-guided fuzzing of what reads bytes from the network, under AddressSanitizer.
# Usage: scripts/fuzz.sh SECONDS [target]...
# Targets: frames (a server connection fed in pieces), headers (header blocks of a connection), hpack (the decoder
# alone), calls (the state machine of a call), amqp (what cuts and reads a broker's bytes), broker (a whole connection to
# RabbitMQ, through a socket), orders (as a broker gives them to the intake, in both forms), json (its reader alone). What
# was found before stands in Tests/Fuzz/regressions and is tried first; a new crash is written there. The corpus grows in
# out/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds for each target}
shift
[ $# -gt 0 ] || set -- frames headers hpack calls amqp broker orders json

command -v pkg-config >/dev/null || scripts/bootstrap.sh
build=.build-fuzz
HOLDFAST_FUZZ=1 swift build --scratch-path $build --product Fuzz -c debug \
  -Xswiftc -sanitize=fuzzer,address -Xswiftc -O
# SwiftPM would name the main function itself; libFuzzer brings its own.
swiftc -use-ld=lld -sanitize=fuzzer,address -o $build/fuzz \
  -Xlinker --whole-archive $build/debug/libFuzz.a -Xlinker --no-whole-archive \
  $(pkg-config --libs zlib openssl librabbitmq)

# libFuzzer and AddressSanitizer say what went wrong; Swift's own report would crash under them.
export ASAN_OPTIONS=detect_leaks=1 SWIFT_BACKTRACE=enable=no
for target in "$@"; do
  export HOLDFAST_FUZZ_TARGET=$target
  corpus=out/fuzz/$target
  case $target in
    amqp | broker) words=amqp ;;
    orders | json) words=orders ;;
    *) words=http2 ;;
  esac
  mkdir -p "$corpus" Tests/Fuzz/regressions/"$target" Tests/Fuzz/corpus/"$target"
  echo "== $target: what was found before"
  $build/fuzz -runs=0 Tests/Fuzz/regressions/"$target" Tests/Fuzz/corpus/"$target"
  echo "== $target: $seconds s"
  $build/fuzz -max_total_time="$seconds" -timeout=10 -max_len=8192 -rss_limit_mb=2048 -print_final_stats=1 \
    -dict=Tests/Fuzz/$words.dict -artifact_prefix=Tests/Fuzz/regressions/"$target"/ \
    "$corpus" Tests/Fuzz/corpus/"$target" Tests/Fuzz/regressions/"$target"
done
