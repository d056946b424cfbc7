// The server's /metrics, for what only the server can know: conflicts, retries, syncs, CPU.
internal import Posix

/// What a run reads from the Prometheus text format (version 0.0.4).
package struct MetricsPage: Equatable, Sendable {
  /// holdfast_conflicts_total by reason.
  package private(set) var conflicts: [String: Double] = [:]
  /// holdfast_commit_attempts: how many commits, and their attempts together.
  package private(set) var commits = 0.0
  package private(set) var commitAttempts = 0.0
  /// How commands that met were kept apart: holdfast_concurrency_waits_total, holdfast_fenced_total and
  /// holdfast_combined_total.
  package private(set) var waits = 0.0
  package private(set) var fenced = 0.0
  package private(set) var combined = 0.0
  /// holdfast_invariant_violations_total, if the server has it.
  package private(set) var invariantViolations = 0.0
  /// holdfast_journal_sync_seconds: how many syncs, and what they took together.
  package private(set) var syncs: Double?
  package private(set) var syncSeconds = 0.0
  /// holdfast_journal_group_records: how many writes, and the decisions in them together.
  package private(set) var groups: Double?
  package private(set) var groupRecords = 0.0
  /// process_cpu_seconds_total and process_resident_memory_bytes.
  package private(set) var processorSeconds: Double?
  package private(set) var residentBytes: Double?
  /// holdfast_live_holds.
  package private(set) var liveHolds: Double?
  /// The labels of holdfast_build_info: "holdfast 0.3.0 release optimistic".
  package private(set) var server: String?

  /// What can be counted, timed or stored. Whatever a page says beyond it, not a number included, is
  /// passed over: sums and ratios of the rest stay finite.
  private static let values = 0.0...1e15

  /// - Parameter text: the page. Lines that are not understood are passed over.
  package init(_ text: String) {
    self.init(Array(text.utf8))
  }

  /// - Parameter page: as it came, its headers included. Lines that are not understood are passed
  ///   over, and most are not asked for: a page has thousands of buckets.
  init(_ page: [UInt8]) {
    for line in page.split(separator: UInt8(ascii: "\n")) {
      guard line.starts(with: "holdfast_".utf8) || line.starts(with: "process_".utf8),
        let space = line.lastIndex(of: UInt8(ascii: " "))
      else { continue }
      let name = line.prefix { $0 != UInt8(ascii: "{") && $0 != UInt8(ascii: " ") }
      if name.suffix(7).elementsEqual("_bucket".utf8) { continue }
      guard let value = Double(String(decoding: line[(space + 1)...], as: UTF8.self)),
        MetricsPage.values.contains(value)
      else { continue }
      take(String(decoding: name, as: UTF8.self), Array(line[name.endIndex..<space]), value)
    }
  }

  private mutating func take(_ name: String, _ labels: [UInt8], _ value: Double) {
    switch name {
    case "holdfast_conflicts_total":
      let reason = MetricsPage.labels(labels).first { $0.name == "reason" }?.value ?? ""
      conflicts[reason, default: 0] += value
    case "holdfast_commit_attempts_count": commits += value
    case "holdfast_commit_attempts_sum": commitAttempts += value
    case "holdfast_concurrency_waits_total": waits += value
    case "holdfast_fenced_total": fenced += value
    case "holdfast_combined_total": combined += value
    case "holdfast_invariant_violations", "holdfast_invariant_violations_total":
      invariantViolations += value
    case "holdfast_journal_sync_seconds_count": syncs = (syncs ?? 0) + value
    case "holdfast_journal_sync_seconds_sum": syncSeconds += value
    case "holdfast_journal_group_records_count": groups = (groups ?? 0) + value
    case "holdfast_journal_group_records_sum": groupRecords += value
    case "process_cpu_seconds_total": processorSeconds = value
    case "process_resident_memory_bytes": residentBytes = value
    case "holdfast_live_holds": liveHolds = (liveHolds ?? 0) + value
    case "holdfast_build_info":
      server = (["holdfast"] + MetricsPage.labels(labels).map(\.value)).joined(separator: " ")
    default: break
    }
  }

  /// - Parameter text: {name="value",other="value"}, or nothing.
  private static func labels(_ text: [UInt8]) -> [(name: String, value: String)] {
    let quote = UInt8(ascii: "\"")
    var labels: [(name: String, value: String)] = []
    var rest = text.dropFirst()
    while let equals = rest.firstIndex(of: UInt8(ascii: "=")), equals + 1 < rest.endIndex,
      rest[equals + 1] == quote,
      let end = rest[(equals + 2)...].firstIndex(of: quote)
    {
      labels.append(
        (
          String(decoding: rest[..<equals], as: UTF8.self),
          String(decoding: rest[(equals + 2)..<end], as: UTF8.self)
        ))
      rest = rest[(end + 1)...].drop { $0 == UInt8(ascii: ",") }
    }
    return labels
  }

  /// What was counted since `earlier`; what is no count is as it stands here.
  package func since(_ earlier: MetricsPage) -> MetricsPage {
    var change = self
    for (reason, count) in earlier.conflicts { change.conflicts[reason, default: 0] -= count }
    change.commits -= earlier.commits
    change.commitAttempts -= earlier.commitAttempts
    change.waits -= earlier.waits
    change.fenced -= earlier.fenced
    change.combined -= earlier.combined
    change.invariantViolations -= earlier.invariantViolations
    change.syncs = syncs.map { $0 - (earlier.syncs ?? 0) }
    change.syncSeconds -= earlier.syncSeconds
    change.groups = groups.map { $0 - (earlier.groups ?? 0) }
    change.groupRecords -= earlier.groupRecords
    change.processorSeconds = processorSeconds.map { $0 - (earlier.processorSeconds ?? 0) }
    return change
  }

  /// Reads a whole HTTP/1.1 response.
  ///
  /// - Throws: what is wrong with it where it is not the page of a holdfast server: any server answers
  ///   something, and a page without counts would read as counts of 0.
  package init(response: [UInt8]) throws(LoadError) {
    let statusLine = response.prefix { $0 != UInt8(ascii: "\r") && $0 != UInt8(ascii: "\n") }
    let words = statusLine.prefix(200).split(separator: UInt8(ascii: " "), maxSplits: 2)
    guard words.count >= 2, words[0].starts(with: "HTTP/1.".utf8), words[1].count == 3,
      words[1].allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
    else { throw LoadError("what answers there is no HTTP/1.1 server") }
    let status = String(decoding: words[1], as: UTF8.self)
    guard status == "200" else {
      throw LoadError("GET /metrics was answered with status \(status)")
    }
    self.init(response)
    guard server != nil else {
      throw LoadError("its /metrics has no holdfast_build_info: it is no holdfast admin page")
    }
  }

  /// Fetches the page with HTTP/1.1.
  ///
  /// - Throws: one line where it cannot be had in time, or is not that of a holdfast server.
  package static func fetch(
    _ endpoint: Endpoint, timeoutSeconds: Double = 5
  ) throws(LoadError) -> MetricsPage {
    do {
      let socket = try Socket.connect(host: endpoint.host, port: endpoint.port)
      let poller = try Poller()
      try poller.add(socket.number, token: 0, writable: true)
      var transport = try endpoint.transport(on: socket)
      defer { transport.close() }
      let deadline = SystemClock.monotonicNanoseconds() + Int64(timeoutSeconds * 1e9)
      let request = Array(
        "GET /metrics HTTP/1.1\r\nHost: \(endpoint)\r\nConnection: close\r\n\r\n".utf8)
      let buffer = ReceiveBuffer()
      var page: [UInt8] = []
      var isSent = false
      while SystemClock.monotonicNanoseconds() < deadline, page.count < 16 << 20 {
        guard try poller.wait(timeoutMilliseconds: 100) > 0 else { continue }
        if let error = Socket.connectError(transport.descriptor) { throw error }
        if !isSent {
          switch transport.handshake() {
          case .done: break
          case .wouldBlock(let readiness):
            try poller.modify(
              transport.descriptor, token: 0, readable: true, writable: readiness == .writable)
            continue
          case .failed(let failure):
            throw LoadError(Endpoint.reason(failure, inHandshake: true))
          }
          // So short a request fits the empty buffer of a new socket.
          _ = unsafe request.withUnsafeBytes { unsafe transport.write(from: $0) }
          isSent = true
          try poller.modify(transport.descriptor, token: 0, readable: true, writable: false)
          continue
        }
        let result = buffer.read(transport) { result, bytes in
          for index in bytes.indices { page.append(bytes[index]) }
          return result
        }
        // HTTP has a length of its own, and some servers leave without close_notify.
        if result == .ended || result == .failed(.truncated) {
          return try MetricsPage(response: page)
        }
        if case .failed(let failure) = result {
          throw LoadError(Endpoint.reason(failure, inHandshake: false))
        }
      }
    } catch {
      throw LoadError("no metrics from \(endpoint) (--admin): \(error)")
    }
    throw LoadError(
      "no metrics from \(endpoint) (--admin): no whole answer within "
        + "\(Seconds.decimal(timeoutSeconds)) s")
  }
}
