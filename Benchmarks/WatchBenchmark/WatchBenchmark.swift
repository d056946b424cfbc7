// A reader of the change feed that is cheap enough to stand beside a load on the same machine: it counts
// events, sees to it that their numbers rise, and looks at nothing else of them but the time of expiries.
//
//     watch-benchmark HOST:PORT WATCHES [SKU]
//
// So many watches on one connection, from now on, of all items or of one. Prints "watching" once all have
// begun; at the end of its input what it saw, as a line of JSON. Exit status 1 where numbers did not rise,
// or a watch ended.
internal import GRPC
internal import Glibc
internal import HTTP2
internal import Posix

@main
struct WatchBenchmark {
  static func main() {
    do { try run() } catch {
      say("watch-benchmark: \(error)", to: 2)
      exit(1)
    }
  }

  private static func run() throws {
    let arguments = CommandLine.arguments
    guard arguments.count == 3 || arguments.count == 4, let watches = Int(arguments[2]),
      watches > 0, let colon = arguments[1].lastIndex(of: ":"),
      let port = UInt16(arguments[1][arguments[1].index(after: colon)...])
    else { throw Failure("watch-benchmark HOST:PORT WATCHES [SKU]") }
    var reader = try Reader(
      host: String(arguments[1][..<colon]), port: port, authority: arguments[1], watches: watches)
    try reader.run(sku: arguments.count == 4 ? arguments[3] : "")
  }
}

/// At once, whatever reads it.
private func say(_ line: String, to descriptor: Int32 = 1) {
  var text = line + "\n"
  text.withUTF8 { bytes in _ = unsafe write(descriptor, bytes.baseAddress, bytes.count) }
}

struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// One connection with some watches.
private struct Reader: ~Copyable {
  private static let input: UInt64 = 0
  private static let server: UInt64 = 1

  private let poller: Poller
  private let transport: Transport
  private var calls: ClientCalls
  private let watches: Int
  private var seen: [Seen]
  private var begun = 0
  private var bytes = 0
  private var events = 0
  private var firstNanoseconds: Int64 = 0
  private var lastNanoseconds: Int64 = 0
  private var expired = 0
  private var expiryNanosecondsMax: Int64 = 0

  /// Of one watch.
  private struct Seen {
    var hasBegun = false
    var lsn: UInt64 = 0
  }

  init(host: String, port: UInt16, authority: String, watches: Int) throws {
    let poller = try Poller()
    let transport = Transport(plain: try Socket.connect(host: host, port: port).take())
    try poller.add(transport.descriptor, token: Self.server, writable: true)
    try poller.add(0, token: Self.input)
    let calls = try ClientCalls(
      methods: [
        ClientMethod(path: "/holdfast.v1.EventService/Watch", type: .serverStreaming)
      ], authority: authority, userAgent: "watch-benchmark/1", callsMax: watches)
    self.watches = watches
    seen = Array(repeating: Seen(), count: watches)
    self.poller = poller
    self.transport = transport
    self.calls = calls
  }

  mutating func run(sku: String) throws {
    let request = Self.request(sku)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 << 10, alignment: 16)
    defer { unsafe buffer.deallocate() }
    var started = 0
    var isWritable = true
    while true {
      while calls.isReady, started < watches,
        case .started = calls.start(0, callID: UInt64(started), message: request.span)
      { started += 1 }
      if flush() != isWritable {
        isWritable.toggle()
        try poller.modify(
          transport.descriptor, token: Self.server, readable: true, writable: !isWritable)
      }
      for index in 0..<(try poller.wait(timeoutMilliseconds: -1)) {
        let event = poller.event(at: index)
        if event.token == Self.input { return say(report) }
        try unsafe receive(buffer)
      }
    }
  }

  /// False where the kernel takes no more.
  private mutating func flush() -> Bool {
    let transport = transport
    var isBlocked = false
    while calls.outputCount > 0, !isBlocked {
      calls.flush { bytes in
        let result = unsafe bytes.withUnsafeBytes { unsafe transport.write(from: $0) }
        if case .moved(let count) = result { return count }
        isBlocked = true
        return 0
      }
    }
    return !isBlocked
  }

  private mutating func receive(_ buffer: UnsafeMutableRawBufferPointer) throws {
    switch unsafe transport.read(into: buffer) {
    case .wouldBlock: return
    case .ended, .failed: throw Failure("the server has closed the connection")
    case .moved(let count):
      bytes += count
      let moved = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<count])
      try calls.receive(unsafe moved.bindMemory(to: UInt8.self).span)
    }
    for index in calls.messages.indices {
      let message = calls.messages[index]
      let watch = Int(message.callID)
      if !seen[watch].hasBegun {
        seen[watch].hasBegun = true
        begun += 1
        if begun == watches { say("watching") }
      }
      var found = Found(lsn: seen[watch].lsn)
      calls.withMessage(message) { found.read($0) }
      guard found.isInOrder else { throw Failure("events that are not in order") }
      seen[watch].lsn = found.lsn
      if found.events > 0 { add(found) }
    }
    if let response = calls.responses.first {
      throw Failure("a watch ended: \(response.status) \(calls.statusText(of: response))")
    }
  }

  private mutating func add(_ found: Found) {
    let now = SystemClock.monotonicNanoseconds()
    if events == 0 { firstNanoseconds = now }
    lastNanoseconds = now
    events += found.events
    guard found.expired > 0 else { return }
    expired += found.expired
    let late = SystemClock.wall().nanoseconds - found.oldestExpiry
    expiryNanosecondsMax = max(expiryNanosecondsMax, late)
  }

  private var report: String {
    let nanoseconds = lastNanoseconds - firstNanoseconds
    return """
      {"watches": \(watches), "events": \(events), "bytes": \(bytes), "seconds": \
      \(Double(nanoseconds) / 1e9), "expired": \(expired), "expiry_seconds_max": \
      \(Double(expiryNanosecondsMax) / 1e9)}
      """
  }

  /// A WatchRequest: items = 4 {sku = 1}, if any; kinds = 3, all.
  private static func request(_ sku: String) -> [UInt8] {
    var bytes: [UInt8] = []
    for kind: UInt8 in [1, 3, 4, 5, 6, 7, 8] { bytes += [3 << 3, kind] }
    if sku.isEmpty { return bytes }
    let text = Array(sku.utf8)
    return bytes + [4 << 3 | 2, UInt8(text.count + 2), 1 << 3 | 2, UInt8(text.count)] + text
  }
}

/// What is in a WatchResponse.
private struct Found {
  var lsn: UInt64
  var isInOrder = true
  var events = 0
  var expired = 0
  /// Of the expired: when the first was due, in nanoseconds since the Unix epoch.
  var oldestExpiry = Int64.max

  init(lsn: UInt64) { self.lsn = lsn }

  /// A WatchResponse: events = 1.
  mutating func read(_ message: Span<UInt8>) {
    var fields = Fields(0..<message.count)
    while let field = fields.next(in: message) {
      if field.number == 1 { readEvent(message, field.bytes) }
    }
  }

  /// lsn = 1, kind = 2, expires_at = 7. What stands behind is passed over, unless it is an expiry.
  private mutating func readEvent(_ message: Span<UInt8>, _ bytes: Range<Int>) {
    var fields = Fields(bytes)
    guard let number = fields.next(in: message), number.number == 1,
      let kind = fields.next(in: message)
    else {
      isInOrder = false
      return
    }
    events += 1
    isInOrder = isInOrder && number.value > lsn
    lsn = number.value
    guard kind.value == 6 else { return }
    expired += 1
    while let field = fields.next(in: message) {
      guard field.number == 7 else { continue }
      // A Timestamp: seconds = 1, nanos = 2.
      var parts = Fields(field.bytes)
      var expiry: Int64 = 0
      while let part = parts.next(in: message) {
        expiry += Int64(part.value) * (part.number == 1 ? 1_000_000_000 : 1)
      }
      oldestExpiry = min(oldestExpiry, expiry)
    }
  }
}

/// The fields of a message, one after the other. What is cut off ends it.
private struct Fields {
  struct Field {
    var number: Int
    var value: UInt64 = 0
    var bytes = 0..<0
  }

  private var place: Int
  private let end: Int

  init(_ bytes: Range<Int>) {
    place = bytes.lowerBound
    end = bytes.upperBound
  }

  mutating func next(in message: Span<UInt8>) -> Field? {
    guard place < end else { return nil }
    let tag = varint(message)
    var field = Field(number: Int(tag >> 3))
    if tag & 7 == 0 {
      field.value = varint(message)
      return field
    }
    let count = Int(clamping: varint(message))
    guard tag & 7 == 2, count <= end - place else { return nil }
    field.bytes = place..<(place + count)
    place += count
    return field
  }

  private mutating func varint(_ message: Span<UInt8>) -> UInt64 {
    var (value, shift): (UInt64, UInt64) = (0, 0)
    while place < end, shift < 64 {
      let byte = message[place]
      place += 1
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { break }
      shift += 7
    }
    return value
  }
}
