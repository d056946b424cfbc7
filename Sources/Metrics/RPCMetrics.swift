internal import Synchronization

/// What the server counts about calls and connections, over all its event loops.
package final class RPCMetrics: Sendable {
  /// The methods that have labels of their own, in the order of their indices. The index
  /// `methods.count`, and any other out of range, means a method that the server does not have.
  package let methods: [RPCMethod]

  let labelledMethods: [RPCMethod]
  private let nowNanoseconds: @Sendable () -> Int64
  private let wallNanoseconds: (@Sendable () -> Int64)?
  // Taken to add a loop and to scrape, never to count.
  let recorders = Mutex<[RPCRecorder]>([])

  /// Metrics for these methods. `nowNanoseconds` is the monotonic clock whose readings the loops
  /// pass to `RPCRecorder.turnBegan`; a scrape asks it which latencies are recent. `wallNanoseconds` is the
  /// time since the Unix epoch, for exemplars; without it they have no time.
  package init(
    methods: [RPCMethod], nowNanoseconds: @escaping @Sendable () -> Int64,
    wallNanoseconds: (@Sendable () -> Int64)? = nil
  ) {
    self.methods = methods
    self.wallNanoseconds = wallNanoseconds
    labelledMethods = methods + [RPCMethod.unknown]
    self.nowNanoseconds = nowNanoseconds
  }

  /// The place where one event loop counts, part of every scrape from now on.
  package func makeRecorder() -> RPCRecorder {
    let recorder = RPCRecorder(methodCount: labelledMethods.count)
    recorders.withLock { $0.append(recorder) }
    return recorder
  }

  /// Adds all numbers to a page, from any thread and without making a loop wait. Numbers that
  /// belong together may differ by the calls that are being counted at this moment.
  package func expose(into exposition: inout Exposition) {
    let recorders = recorders.withLock { $0 }
    exposeCalls(of: recorders, into: &exposition)
    exposeReservations(of: recorders, into: &exposition)
    exposeConnections(of: recorders, into: &exposition)
  }

  private func exposeCalls(of recorders: [RPCRecorder], into exposition: inout Exposition) {
    let labels = labelledMethods.map(Self.labels)
    let indices = labelledMethods.indices
    exposition.counter(
      "grpc_server_started_total", help: "Calls that began.",
      samples: indices.map { index in
        (labels[index], Double(recorders.sum { $0.started.value(at: index) }))
      })

    let codes = StatusCodeLabel.names
    exposition.counter(
      "grpc_server_handled_total", help: "Calls that ended, by status code.",
      samples: indices.flatMap { index in
        codes.indices.map { code in
          let count = recorders.sum { $0.handled.value(at: index * codes.count + code) }
          return (labels[index] + [("grpc_code", codes[code])], Double(count))
        }
      })

    for index in indices {
      exposition.histogram(
        "grpc_server_handling_seconds", help: "Time from a call's arrival to its answer.",
        labels: labels[index], upperBounds: RPCRecorder.handlingBoundsNanoseconds,
        snapshot: recorders.merged { $0.handling.snapshot(row: index) }, unit: 1e-9,
        exemplars: exposition.format == .openMetrics ? exemplars(of: recorders, row: index) : [])
    }
    exposition.counter(
      "holdfast_slow_calls_total",
      help: "Unary calls that took --slow-call and longer, told in the log or not.",
      value: recorders.sum(.slowCalls))
    exposition.histogram(
      "holdfast_turn_calls", help: "Calls dispatched per event loop turn that had any.",
      upperBounds: RPCRecorder.turnBoundsCalls, snapshot: recorders.merged { $0.turns.snapshot() })
    exposition.histogram(
      "holdfast_turn_seconds",
      help: "Time from when a turn's bytes were there to when all its calls were executed.",
      upperBounds: RPCRecorder.turnBoundsNanoseconds,
      snapshot: recorders.merged { $0.turnTimes.snapshot() }, unit: 1e-9)
  }

  /// The newest of all loops, by bucket.
  private func exemplars(of recorders: [RPCRecorder], row: Int) -> [Exemplar?] {
    let buckets = RPCRecorder.handlingBoundsNanoseconds.count + 1
    let now = nowNanoseconds()
    return (0..<buckets).map { bucket in
      let newest = recorders.compactMap { $0.exemplars.value(slot: row * buckets + bucket) }
        .max { $0.nanoseconds < $1.nanoseconds }
      guard let newest else { return nil }
      let wall = wallNanoseconds.map { $0() - (now - newest.nanoseconds) }
      return Exemplar(
        traceID: Self.hexadecimal(newest.traceHigh) + Self.hexadecimal(newest.traceLow),
        value: Double(newest.value) / 1e9,
        unixSeconds: wall.map { (Double($0) / 1e6).rounded() / 1e3 })
    }
  }

  /// 16 digits.
  private static func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
  }

  private func exposeReservations(of recorders: [RPCRecorder], into exposition: inout Exposition) {
    let quantiles = [0.5, 0.95, 0.99, 0.999]
    let values = QuantileWindow.quantiles(
      quantiles, of: recorders.map(\.reservationLatencies), nowNanoseconds: nowNanoseconds())
    exposition.summary(
      "holdfast_reservation_latency_seconds",
      help: "Time from a reserve call's arrival to its answer; quantiles of the last minute.",
      quantiles: zip(quantiles, values).map { ($0, $1.map { $0 * 1e-9 } ?? .nan) },
      count: recorders.sum(.reservations),
      sum: Double(recorders.sum(.reservationNanoseconds)) * 1e-9)
  }

  private func exposeConnections(of recorders: [RPCRecorder], into exposition: inout Exposition) {
    // Closed is read first: a connection that ends in between then counts as open, never as -1.
    let closed = recorders.sum(.connectionsClosed)
    let opened = recorders.sum(.connectionsOpened)
    exposition.gauge(
      "holdfast_connections", help: "Open connections.",
      value: Double(opened) - Double(closed))
    exposition.counter(
      "holdfast_connections_accepted_total", help: "Connections that were accepted.", value: opened)
    exposition.counter(
      "holdfast_connections_refused_total", help: "Connections closed at once, over a limit.",
      samples: ConnectionRefusal.allCases.map { reason in
        (
          [("reason", reason.rawValue)],
          Double(recorders.sum { $0.refusals.value(at: reason.cell) })
        )
      })
    exposition.counter(
      "holdfast_connections_evicted_total",
      help: "Idle connections ended, because the server was full and a new one came.",
      value: recorders.sum(.connectionsEvicted))
    exposition.counter(
      "holdfast_received_bytes_total", help: "Bytes read from connections.",
      value: recorders.sum(.receivedBytes))
    exposition.counter(
      "holdfast_sent_bytes_total", help: "Bytes written to connections.",
      value: recorders.sum(.sentBytes))
    exposition.counter(
      "holdfast_connection_abuse_total", help: "Connections closed for what the peer did.",
      samples: ConnectionAbuse.allCases.map { kind in
        ([("kind", kind.rawValue)], Double(recorders.sum { $0.abuses.value(at: kind.cell) }))
      })
  }

  private static func labels(of method: RPCMethod) -> Exposition.Labels {
    [
      ("grpc_type", method.type.rawValue), ("grpc_service", method.service),
      ("grpc_method", method.method),
    ]
  }
}

extension [RPCRecorder] {
  func sum(_ value: (RPCRecorder) -> UInt64) -> UInt64 {
    reduce(0) { $0 &+ value($1) }
  }

  func sum(_ counter: RPCRecorder.Counter) -> UInt64 {
    sum { $0.counters.value(at: counter.rawValue) }
  }

  /// The snapshots of all loops added up; without loops an empty one.
  fileprivate func merged(_ snapshot: (RPCRecorder) -> HistogramSnapshot) -> HistogramSnapshot {
    reduce(into: HistogramSnapshot()) { $0.add(snapshot($1)) }
  }
}
