// A connection to PostgreSQL by libpq, without ever waiting longer than it is told (libpq, "Asynchronous Command
// Processing").
internal import CPostgres
internal import Glibc
internal import Posix

/// Why a statement has no answer.
package enum PostgresError: Error, Equatable, CustomStringConvertible {
  /// No connection, or not in time. What was sent may have been carried out, or may yet be.
  case unreachable(String)
  /// The server says no: its SQLSTATE, and why.
  case refused(state: String, String)

  /// SQLSTATE disk_full.
  private static let diskFull = "53100"

  package var description: String {
    switch self {
    case .unreachable(let text): text
    // PostgreSQL's words do not always say so.
    case .refused(Self.diskFull, let text): "its disk is full: \(text) (\(Self.diskFull))"
    case .refused(let state, let text): "\(text) (\(state))"
    }
  }
}

package enum PostgresAddress {
  /// An address as it may be shown: what libpq understands of it, without passwords.
  package static func shown(_ address: String) -> String {
    guard let options = unsafe PQconninfoParse(address, nil) else {
      return "(no address of an engine)"
    }
    defer { unsafe PQconninfoFree(options) }
    var shown: [String] = []
    var option = unsafe options
    while let keyword = unsafe option.pointee.keyword {
      // "*" is what libpq marks passwords with.
      if let value = unsafe option.pointee.val,
        unsafe String(cString: option.pointee.dispchar) != "*"
      {
        let (keyword, value) = unsafe (String(cString: keyword), String(cString: value))
        shown.append("\(keyword)=\(isHost(keyword, value) ? value : "***")")
      }
      unsafe option += 1
    }
    return shown.joined(separator: " ")
  }

  /// False where a host is the end of a password.
  static func isHost(_ keyword: String, _ value: String) -> Bool {
    keyword != "host" || !value.contains("@")
  }
}

/// A value of a statement, in PostgreSQL's binary format.
@safe package enum PostgresValue {
  case int8(UInt64)
  case text(String)
  case bytes(UnsafeRawBufferPointer)
  /// Of a type by its number in pg_type, as its receive function takes it.
  case binary(type: UInt32, [UInt8])

  /// As pg_type numbers the types that are built in.
  var type: Oid {
    switch self {
    case .int8: 20
    case .text: 25
    case .bytes: 17
    case .binary(let type, _): type
    }
  }
}

/// What a statement has returned, which nobody changes any more. Freed with it.
@safe package final class PostgresRows: @unchecked Sendable {
  private let result: OpaquePointer
  /// How many rows.
  package let count: Int
  let columnCount: Int

  init(_ result: OpaquePointer) {
    unsafe self.result = result
    count = unsafe Int(PQntuples(result))
    columnCount = unsafe Int(PQnfields(result))
  }

  deinit { unsafe PQclear(result) }

  func withBytes<Result, E: Error>(
    _ row: Int, _ column: Int, _ body: (UnsafeRawBufferPointer) throws(E) -> Result
  ) throws(E) -> Result {
    precondition(row < count, "a row that there is not")
    let length = unsafe Int(PQgetlength(result, Int32(row), Int32(column)))
    let start = unsafe PQgetvalue(result, Int32(row), Int32(column))
    return unsafe try body(UnsafeRawBufferPointer(start: start, count: length))
  }

  func isNull(_ row: Int, _ column: Int) -> Bool {
    precondition(row < count, "a row that there is not")
    return unsafe PQgetisnull(result, Int32(row), Int32(column)) == 1
  }

  /// An int8, or an int4; 0 where it is neither.
  package func number(_ row: Int, _ column: Int) -> UInt64 {
    unsafe withBytes(row, column) { bytes in unsafe bytes.reduce(0) { $0 << 8 | UInt64($1) } }
  }

  /// A text as it is stored.
  package func text(_ row: Int, _ column: Int) -> String {
    unsafe withBytes(row, column) { unsafe String(decoding: $0, as: UTF8.self) }
  }
}

/// Used by one thread at a time.
@safe package final class PostgresConnection {
  /// What the server says beside its answers.
  private final class Notices {
    var newest: String?
  }

  private let connection: OpaquePointer
  private let notices = Notices()
  /// The names of statements that were prepared.
  private var prepared: [String: String] = [:]

  /// Tries the hosts of an address one after the other, until one is there that can be written to.
  /// - Parameters:
  ///   - address: a URI or keywords and values (libpq, "Connection Strings"); passwords come from where libpq
  ///     looks for them.
  ///   - nanosecondsEach: for each host.
  package init(_ address: String, nanosecondsEach: Int64) throws(PostgresError) {
    var reasons: [String] = []
    for host in try Self.hosts(address) {
      do throws(PostgresError) {
        unsafe connection = try Self.connect(
          address, host,
          host.keywords.isEmpty ? nanosecondsEach * Self.unsplitHosts : nanosecondsEach)
        let box = unsafe Unmanaged.passUnretained(notices).toOpaque()
        unsafe PQsetNoticeReceiver(
          connection,
          { box, result in
            guard let box = unsafe box else { return }
            let text = unsafe PQresultErrorField(result, PostgresConnection.primaryMessage)
            unsafe Unmanaged<Notices>.fromOpaque(box).takeUnretainedValue().newest =
              unsafe text.map { unsafe String(cString: $0) } ?? "a notice"
          }, box)
        return
      } catch {
        let reason = error.description
        if !reasons.contains(reason) { reasons.append(reason) }
      }
    }
    throw .unreachable(reasons.joined(separator: "; "))
  }

  deinit { unsafe PQfinish(connection) }

  // MARK: Connecting

  /// libpq's PG_DIAG_SQLSTATE and PG_DIAG_MESSAGE_PRIMARY, which are characters.
  private static let sqlState = Int32(UInt8(ascii: "C"))
  private static let primaryMessage = Int32(UInt8(ascii: "M"))

  private struct Host {
    var keywords: [String] = []
    var values: [String] = []
  }

  /// libpq tries several hosts by itself, but where one does not answer at all, it waits for that one.
  private static func hosts(_ address: String) throws(PostgresError) -> [Host] {
    var message: UnsafeMutablePointer<CChar>?
    guard let options = unsafe PQconninfoParse(address, &message) else {
      let text = unsafe message.map { unsafe String(cString: $0) } ?? "it is no address"
      unsafe PQfreemem(message)
      // What it quotes may be a part of a password.
      let reason = firstLine(text).prefix { $0 != "\"" }
      throw .unreachable("it is no address of an engine: \(reason)")
    }
    defer { unsafe PQconninfoFree(options) }
    var lists: [String: [Substring]] = [:]
    var option = unsafe options
    while let keyword = unsafe option.pointee.keyword {
      if let value = unsafe option.pointee.val {
        let (keyword, value) = unsafe (String(cString: keyword), String(cString: value))
        guard PostgresAddress.isHost(keyword, value) else {
          throw .unreachable(
            "it is no address of an engine: @ in a password is written as %40")
        }
        lists[keyword] = value.split(separator: ",", omittingEmptySubsequences: false)
      }
      unsafe option += 1
    }
    let names = ["host", "hostaddr"].filter { lists[$0] != nil }
    guard let first = names.first, let count = lists[first]?.count, count > 1 else {
      return [Host()]
    }
    return (0..<count).map { index in
      var host = Host()
      for keyword in names + ["port"] {
        guard let list = lists[keyword], let only = list.first else { continue }
        host.keywords.append(keyword)
        host.values.append(String(list.count == count ? list[index] : only))
      }
      return host
    }
  }

  /// A role may be set up otherwise. Notices are part of an answer; and a statement that waits for a lock ends with
  /// its connection, or a primary without standbys would come to its limit of connections.
  private static let session =
    "-c synchronous_commit=on -c lock_timeout=0 -c client_min_messages=warning "
    + "-c client_connection_check_interval=2000"
  /// Of a service file or a name with several addresses, libpq tries all in one go.
  private static let unsplitHosts: Int64 = 3

  private static func connect(
    _ address: String, _ host: Host, _ nanoseconds: Int64
  ) throws(PostgresError) -> OpaquePointer {
    let keywords =
      ["dbname"] + host.keywords
      + ["target_session_attrs", "fallback_application_name", "client_encoding", "options"]
    let values =
      [address] + host.values
      + ["read-write", "holdfast", "UTF8", session]
    let started = unsafe withCStrings(keywords) { keywords in
      unsafe withCStrings(values) { values in unsafe PQconnectStartParams(keywords, values, 1) }
    }
    guard let started = unsafe started else { throw .unreachable("there is no memory for it") }
    do throws(PostgresError) {
      let deadline = SystemClock.monotonicNanoseconds() + nanoseconds
      var wanted = PGRES_POLLING_WRITING
      while unsafe PQstatus(started) != CONNECTION_BAD {
        let events = wanted == PGRES_POLLING_READING ? POLLIN : POLLOUT
        _ = unsafe try wait(started, Int16(events), until: deadline, "it does not answer")
        wanted = unsafe PQconnectPoll(started)
        if wanted == PGRES_POLLING_OK {
          unsafe PQsetnonblocking(started, 1)
          return unsafe started
        }
        if wanted == PGRES_POLLING_FAILED { break }
      }
      throw .unreachable(unsafe firstLine(String(cString: PQerrorMessage(started))))
    } catch {
      unsafe PQfinish(started)
      throw error
    }
  }

  private static func withCStrings<Result>(
    _ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Result
  ) -> Result {
    var copies = unsafe strings.map { text in unsafe UnsafePointer(strdup(text)) }
    defer {
      for index in unsafe copies.indices {
        unsafe free(UnsafeMutablePointer(mutating: copies[index]))
      }
    }
    unsafe copies.append(nil)
    return unsafe copies.withUnsafeBufferPointer { list in
      guard let start = list.baseAddress else { preconditionFailure("an empty list") }
      return unsafe body(start)
    }
  }

  private static func firstLine(_ text: String) -> String {
    text.split(separator: "\n").first.map(String.init) ?? "it gives no reason"
  }

  /// Waits for the socket. What it is ready for.
  private static func wait(
    _ connection: OpaquePointer, _ events: Int16, until deadline: Int64, _ otherwise: String
  ) throws(PostgresError) -> Int16 {
    while true {
      let left = deadline - SystemClock.monotonicNanoseconds()
      guard left > 0 else { throw .unreachable(otherwise) }
      var entry = pollfd(fd: unsafe PQsocket(connection), events: events, revents: 0)
      let ready = unsafe poll(&entry, 1, Int32(clamping: left / 1_000_000 + 1))
      if ready > 0 { return entry.revents }
      if ready < 0, errno != EINTR { throw .unreachable(Errno(code: errno).description) }
    }
  }

  // MARK: Statements

  /// Runs one statement. `notice` is what the server has said beside its answer.
  /// - Parameter isKept: prepared once for the connection.
  package func run(
    _ statement: String, _ values: [PostgresValue] = [], isKept: Bool = false,
    nanoseconds: Int64
  ) throws(PostgresError) -> (rows: PostgresRows, notice: String?) {
    let deadline = SystemClock.monotonicNanoseconds() + nanoseconds
    notices.newest = nil
    if isKept, prepared[statement] == nil {
      let name = "statement \(prepared.count)"
      let types = values.map(\.type)
      try check(
        unsafe PQsendPrepare(connection, name, statement, Int32(types.count), types))
      _ = try result(until: deadline)
      prepared[statement] = name
    }
    try check(send(statement, values, isKept ? prepared[statement] : nil))
    return (try result(until: deadline), notices.newest)
  }

  /// Runs what returns nothing, several statements among them.
  package func run(script: String, nanoseconds: Int64) throws(PostgresError) {
    try check(unsafe PQsendQuery(connection, script))
    _ = try result(until: SystemClock.monotonicNanoseconds() + nanoseconds)
  }

  private func check(_ sent: Int32) throws(PostgresError) {
    guard sent == 1 else {
      throw .unreachable(unsafe Self.firstLine(String(cString: PQerrorMessage(connection))))
    }
  }

  /// What is sent is copied.
  /// - Parameter name: of the prepared statement.
  private func send(_ statement: String, _ values: [PostgresValue], _ name: String?) -> Int32 {
    // Numbers and texts in one piece of memory; bytes stay where they are.
    var copied: [UInt8] = []
    var places: [(start: Int, count: Int)] = []
    for value in values {
      let start = copied.count
      switch value {
      case .int8(let number):
        for shift in stride(from: 56, through: 0, by: -8) {
          copied.append(UInt8(truncatingIfNeeded: number >> UInt64(shift)))
        }
      case .text(let text): copied += text.utf8
      case .binary(_, let bytes): copied += bytes
      case .bytes: break
      }
      places.append((start, copied.count - start))
    }
    // Never nil, which would be null.
    copied.append(0)
    let count = Int32(values.count)
    return unsafe copied.withUnsafeBytes { memory in
      var starts: [UnsafePointer<CChar>?] = unsafe []
      var lengths: [Int32] = []
      for (index, value) in values.enumerated() {
        if case .bytes(let bytes) = value, bytes.count > 0 {
          unsafe starts.append(bytes.baseAddress?.assumingMemoryBound(to: CChar.self))
          lengths.append(Int32(bytes.count))
        } else {
          let start = unsafe memory.baseAddress.map { unsafe $0 + places[index].start }
          unsafe starts.append(start?.assumingMemoryBound(to: CChar.self))
          lengths.append(Int32(places[index].count))
        }
      }
      let formats = [Int32](repeating: 1, count: values.count)
      guard let name else {
        return unsafe PQsendQueryParams(
          connection, statement, count, values.map(\.type), starts, lengths, formats, 1)
      }
      return unsafe PQsendQueryPrepared(connection, name, count, starts, lengths, formats, 1)
    }
  }

  /// The answer to what was sent.
  private func result(until deadline: Int64) throws(PostgresError) -> PostgresRows {
    var newest: PostgresRows?
    var failure: PostgresError?
    while true {
      try settle(until: deadline)
      guard let result = unsafe PQgetResult(connection) else { break }
      let status = unsafe PQresultStatus(result)
      if status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK {
        newest = unsafe PostgresRows(result)
        continue
      }
      failure = unsafe Self.failure(result)
      unsafe PQclear(result)
    }
    if let failure { throw failure }
    guard let newest else {
      throw .unreachable(unsafe Self.firstLine(String(cString: PQerrorMessage(connection))))
    }
    return newest
  }

  private static func failure(_ result: OpaquePointer) -> PostgresError {
    let text = unsafe PQresultErrorField(result, primaryMessage).map { unsafe String(cString: $0) }
    guard let state = unsafe PQresultErrorField(result, sqlState) else {
      let message = unsafe String(cString: PQresultErrorMessage(result))
      return .unreachable(text ?? firstLine(message))
    }
    return .refused(state: unsafe String(cString: state), text ?? "it gives no reason")
  }

  /// Sends what is left of a statement and takes in what there is, until the next result is whole.
  private func settle(until deadline: Int64) throws(PostgresError) {
    while true {
      let flushed = unsafe PQflush(connection)
      if flushed < 0 { try check(0) }
      if flushed == 0, unsafe PQisBusy(connection) == 0 { return }
      let events = flushed > 0 ? POLLIN | POLLOUT : POLLIN
      let ready = try unsafe Self.wait(
        connection, Int16(events), until: deadline, "it has not answered in time")
      if ready & Int16(POLLIN | POLLERR | POLLHUP) != 0 {
        try check(unsafe PQconsumeInput(connection))
      }
    }
  }
}
