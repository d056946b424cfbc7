// The server's /metrics, for what only the server can know: conflicts and retries.
internal import Posix

/// What a run reads from the Prometheus text format (version 0.0.4).
package struct MetricsPage: Equatable, Sendable {
  /// holdfast_conflicts_total by reason.
  package private(set) var conflicts: [String: Double] = [:]
  /// holdfast_commit_attempts: how many commits, and their attempts together.
  package private(set) var commits = 0.0
  package private(set) var commitAttempts = 0.0
  /// holdfast_invariant_violations_total, if the server has it.
  package private(set) var invariantViolations = 0.0

  /// - Parameter text: the page. Lines that are not understood are passed over.
  package init(_ text: String) {
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      guard let space = line.lastIndex(of: " "),
        let value = Double(line[line.index(after: space)...])
      else { continue }
      let series = line[..<space]
      let name = series.prefix { $0 != "{" }
      switch name {
      case "holdfast_conflicts_total":
        conflicts[MetricsPage.label("reason", in: series) ?? "", default: 0] += value
      case "holdfast_commit_attempts_count": commits += value
      case "holdfast_commit_attempts_sum": commitAttempts += value
      case "holdfast_invariant_violations", "holdfast_invariant_violations_total":
        invariantViolations += value
      default: break
      }
    }
  }

  private static func label(_ name: String, in series: Substring) -> String? {
    let opening = "\(name)=\""
    let bytes = Array(series)
    guard let start = bytes.indices.first(where: { bytes[$0...].starts(with: opening) }) else {
      return nil
    }
    return String(bytes[(start + opening.count)...].prefix { $0 != "\"" })
  }

  /// What was counted since `earlier`.
  package func since(_ earlier: MetricsPage) -> MetricsPage {
    var change = self
    for (reason, count) in earlier.conflicts { change.conflicts[reason, default: 0] -= count }
    change.commits -= earlier.commits
    change.commitAttempts -= earlier.commitAttempts
    change.invariantViolations -= earlier.invariantViolations
    return change
  }

  /// Fetches the page with HTTP/1.1.
  package static func fetch(_ endpoint: Endpoint) throws(LoadError) -> MetricsPage {
    do {
      let socket = try Socket.connect(host: endpoint.host, port: endpoint.port)
      let poller = try Poller()
      try poller.add(socket.number, token: 0, writable: true)
      let deadline = SystemClock.monotonicNanoseconds() + 5_000_000_000
      let request = Array(
        "GET /metrics HTTP/1.1\r\nHost: \(endpoint)\r\nConnection: close\r\n\r\n".utf8)
      let buffer = ReceiveBuffer()
      var page: [UInt8] = []
      var isSent = false
      while SystemClock.monotonicNanoseconds() < deadline, page.count < 16 << 20 {
        guard try poller.wait(timeoutMilliseconds: 100) > 0 else { continue }
        if let error = Socket.connectError(socket.number) { throw error }
        if !isSent {
          // So short a request fits the empty buffer of a new socket.
          _ = unsafe request.withUnsafeBytes { unsafe FileDescriptor.send(socket.number, from: $0) }
          isSent = true
          try poller.modify(socket.number, token: 0, readable: true, writable: false)
          continue
        }
        let result = buffer.read(socket.number) { result, bytes in
          for index in bytes.indices { page.append(bytes[index]) }
          return result
        }
        if case .failed(let error) = result { throw error }
        if result == .moved(0) {
          return MetricsPage(String(decoding: page, as: UTF8.self))
        }
      }
    } catch {
      throw LoadError("no metrics from \(endpoint) (--admin): \(error)")
    }
    throw LoadError("no metrics from \(endpoint) (--admin): no whole answer in 5 s")
  }
}
