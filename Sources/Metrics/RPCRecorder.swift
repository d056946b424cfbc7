/// Where one event loop counts what it does. Made by `RPCMetrics.makeRecorder`.
///
/// Every function is for the loop's own thread alone; scrapes read the cells from other threads.
/// Recording neither locks nor allocates, and never traps: a method or code out of range is counted
/// as unknown.
package final class RPCRecorder: Sendable {
  /// Upper bounds of `grpc_server_handling_seconds`: 50 µs to 10 s.
  static let handlingBoundsNanoseconds: [Int64] = [
    50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000,
    50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000,
    5_000_000_000, 10_000_000_000,
  ]
  /// Upper bounds of `holdfast_turn_seconds`. A turn is some 100 us under load; what is above 5 ms has
  /// kept everybody waiting.
  package static let turnBoundsNanoseconds: [Int64] = [
    50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 50_000_000,
    100_000_000,
  ]
  /// Upper bounds of `holdfast_turn_calls`: powers of two up to 4,096 calls.
  static let turnBoundsCalls: [Int64] = (0...12).map { 1 << $0 }

  /// Single counters, by their cell.
  enum Counter: Int, CaseIterable {
    case connectionsOpened, connectionsClosed, connectionsEvicted, receivedBytes, sentBytes
    case reservations, reservationNanoseconds, slowCalls
  }

  let started: CounterCells
  let handled: CounterCells
  let handling: HistogramCells
  /// By the cells of `handling`.
  let exemplars: ExemplarCells
  let latencies: LatencyCells
  let turns = HistogramCells(upperBounds: turnBoundsCalls)
  let turnTimes = HistogramCells(upperBounds: turnBoundsNanoseconds)
  let counters = CounterCells(count: Counter.allCases.count)
  let refusals = CounterCells(count: ConnectionRefusal.allCases.count)
  let abuses = CounterCells(count: ConnectionAbuse.allCases.count)
  let reservationLatencies = QuantileWindow()

  private let unknownMethod: Int

  /// `methodCount` includes the unknown method, which comes last.
  init(methodCount: Int) {
    started = CounterCells(count: methodCount)
    handled = CounterCells(count: methodCount * StatusCodeLabel.names.count)
    handling = HistogramCells(upperBounds: Self.handlingBoundsNanoseconds, rows: methodCount)
    exemplars = ExemplarCells(slots: handling.rows * handling.bucketsPerRow)
    latencies = LatencyCells(rows: methodCount)
    unknownMethod = methodCount - 1
  }

  // MARK: Calls

  /// `count` calls of `method` (its index in `RPCMetrics.methods`) began.
  package func started(method: Int, count: UInt64 = 1) {
    // CounterCells takes an index out of range as its last one, which is the unknown method.
    started.add(count, at: method)
  }

  /// `count` calls of `method` ended with the gRPC status `code` (0 to 16), `latencyNanoseconds`
  /// each after they began.
  package func handled(
    method: Int, code: Int, latencyNanoseconds: Int64, count: UInt64 = 1
  ) {
    let codes = StatusCodeLabel.count
    let method = UInt(bitPattern: method) < UInt(bitPattern: unknownMethod) ? method : unknownMethod
    let code = UInt(bitPattern: code) < UInt(bitPattern: codes) ? code : StatusCodeLabel.unknownCode
    handled.add(count, at: method * codes + code)
    handling.record(latencyNanoseconds, row: method, count: count)
    latencies.record(latencyNanoseconds, row: method, count: count)
  }

  /// A call that was handled belongs to a trace that somebody keeps: it may stand for the calls that took
  /// as long. Of each bucket one call a second is kept at most.
  /// - Parameters:
  ///   - method: its index.
  ///   - nowNanoseconds: on the clock that `RPCMetrics` was given.
  package func traced(
    method: Int, latencyNanoseconds: Int64, traceHigh: UInt64, traceLow: UInt64,
    nowNanoseconds: Int64
  ) {
    let method = UInt(bitPattern: method) < UInt(bitPattern: unknownMethod) ? method : unknownMethod
    let latency = max(latencyNanoseconds, 0)
    exemplars.offer(
      ExemplarCells.Value(
        traceHigh: traceHigh, traceLow: traceLow, value: latency, nanoseconds: nowNanoseconds),
      slot: method * handling.bucketsPerRow + handling.bucket(of: latency))
  }

  /// A call took longer than the operator wants to hear of, told or not.
  package func slowCall() { counters.add(1, at: Counter.slowCalls.rawValue) }

  /// `count` reserve calls were answered, `nanoseconds` each after their arrival. The value belongs
  /// to the turn that `turnBegan` told of last.
  package func reservationLatency(nanoseconds: Int64, count: UInt64 = 1) {
    reservationLatencies.record(nanoseconds, count: count)
    counters.add(count, at: Counter.reservations.rawValue)
    counters.add(
      UInt64(max(nanoseconds, 0)) &* count, at: Counter.reservationNanoseconds.rawValue)
  }

  // MARK: Turns

  /// A turn of the loop begins at `nowNanoseconds`, on the clock that `RPCMetrics` was given.
  package func turnBegan(nowNanoseconds: Int64) {
    reservationLatencies.advance(nowNanoseconds: nowNanoseconds)
  }

  /// The turn dispatched `calls` calls. Turns without any are not counted: an idle loop's wake-ups
  /// would hide the busy ones.
  /// - Parameter nanoseconds: from when the bytes of its calls were there to when all were executed.
  package func turn(calls: Int, nanoseconds: Int64) {
    guard calls > 0 else { return }
    turns.record(Int64(calls))
    turnTimes.record(nanoseconds)
  }

  // MARK: Connections

  /// A connection was accepted.
  package func connectionOpened() {
    counters.add(1, at: Counter.connectionsOpened.rawValue)
  }

  /// A connection that was opened on this loop is gone.
  package func connectionClosed() {
    counters.add(1, at: Counter.connectionsClosed.rawValue)
  }

  /// A connection was closed at once, because a limit was reached. It never counts as opened, but
  /// where the PROXY protocol told only then whose it is.
  package func connectionRefused(_ reason: ConnectionRefusal) {
    refusals.add(1, at: reason.cell)
  }

  /// An idle connection was ended, because the server was full and a new one came.
  package func connectionEvicted() {
    counters.add(1, at: Counter.connectionsEvicted.rawValue)
  }

  /// `bytes` were read from a connection; less than 1 counts as none.
  package func received(bytes: Int) {
    counters.add(UInt64(max(bytes, 0)), at: Counter.receivedBytes.rawValue)
  }

  /// `bytes` were written to a connection; less than 1 counts as none.
  package func sent(bytes: Int) {
    counters.add(UInt64(max(bytes, 0)), at: Counter.sentBytes.rawValue)
  }

  /// A connection is closed for what its peer did.
  package func abuse(_ kind: ConnectionAbuse) {
    abuses.add(1, at: kind.cell)
  }
}
