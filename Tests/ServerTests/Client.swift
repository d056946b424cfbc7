// A client of HTTP/2 in a hundred lines, for tests: it can say everything, also what is wrong, and it
// waits for what it expects instead of sleeping.
import Posix
import Testing

/// The bytes of frames and header blocks.
enum Frame {
  static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

  static func bytes(_ type: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: [UInt8]) -> [UInt8]
  {
    bigEndian(UInt32(payload.count)).dropFirst() + [type, flags] + bigEndian(stream) + payload
  }

  static func bigEndian(_ value: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) }
  }

  /// Windows so large that no test meets their end, and no dynamic table.
  static let settings = settings(window: 1 << 30)

  static func settings(window: UInt32) -> [UInt8] {
    bytes(4, 0, 0, [0, 4] + bigEndian(window)) + bytes(8, 0, 0, bigEndian(1 << 30))
  }

  /// A literal without indexing and without Huffman coding; texts below 127 bytes.
  static func field(_ name: String, _ value: String) -> [UInt8] {
    [0, UInt8(name.utf8.count)] + Array(name.utf8) + [UInt8(value.utf8.count)] + Array(value.utf8)
  }

  static func headers(_ stream: UInt32, _ fields: [(String, String)], ends: Bool) -> [UInt8] {
    bytes(1, ends ? 5 : 4, stream, fields.flatMap { field($0.0, $0.1) })
  }

  static func data(_ stream: UInt32, _ payload: [UInt8], ends: Bool) -> [UInt8] {
    bytes(0, ends ? 1 : 0, stream, payload)
  }

  static func message(_ message: [UInt8], flag: UInt8 = 0) -> [UInt8] {
    [flag] + bigEndian(UInt32(message.count)) + message
  }

  /// HEADERS whose block enters each field into the server's dynamic table.
  static func enteringHeaders(_ stream: UInt32, _ fields: [(String, String)]) -> [UInt8] {
    let block = fields.flatMap { [0x40] + field($0.0, $0.1).dropFirst() }
    return bytes(1, 4, stream, block)
  }

  /// HEADERS whose block refers to the `count` fields that were entered last.
  static func referringHeaders(_ stream: UInt32, count: UInt8) -> [UInt8] {
    bytes(1, 4, stream, (0..<count).reversed().map { 0x80 | (62 + $0) })
  }

  static func reset(_ stream: UInt32) -> [UInt8] { bytes(3, 0, stream, bigEndian(8)) }
}

/// What has come of one call.
struct CallState {
  var fields: [String: String] = [:]
  var body: [UInt8] = []
  var hasEnded = false
  var resetCode: UInt32?

  var httpStatus: String { fields[":status"] ?? "" }
  /// -1: none.
  var code: Int { Int(fields["grpc-status"] ?? "") ?? -1 }
  var text: String { fields["grpc-message"] ?? "" }

  /// The messages of the body; nil where it is cut off.
  var messages: [[UInt8]]? {
    var messages: [[UInt8]] = []
    var rest = body[...]
    while !rest.isEmpty {
      guard rest.count >= 5 else { return nil }
      let length = rest.dropFirst().prefix(4).reduce(0) { $0 << 8 | Int($1) }
      rest = rest.dropFirst(5)
      guard rest.count >= length else { return nil }
      messages.append(Array(rest.prefix(length)))
      rest = rest.dropFirst(length)
    }
    return messages
  }
}

final class Client {
  private let socket: FileDescriptor
  private var input: [UInt8] = []
  private var dynamicTable: [(String, String)] = []
  private var nextStream: UInt32 = 1
  private(set) var calls: [UInt32: CallState] = [:]
  /// The last stream of every GOAWAY.
  private(set) var goAways: [UInt32] = []
  private(set) var isGreeted = false
  private(set) var sentBytes = 0.0
  /// The server has ended its side, or broken off.
  private(set) var isClosed = false
  /// What came before a frame could be read, from a server that answers without HTTP/2.
  var rawInput: String { String(decoding: input, as: UTF8.self) }
  private let speaksHTTP2: Bool

  /// - Parameters:
  ///   - greets: sends the preface and SETTINGS at once.
  ///   - window: of its streams; nil: so large that no test meets its end.
  init(
    host: String = "127.0.0.1", port: UInt16, greets: Bool = true, window: UInt32? = nil
  ) throws {
    socket = try Socket.connect(host: host, port: port)
    speaksHTTP2 = greets
    if greets { try send(Frame.preface + Frame.settings(window: window ?? 1 << 30)) }
  }

  // MARK: Sending

  /// Sends all of it.
  func send(_ bytes: [UInt8]) throws {
    let poller = try Poller(capacity: 1)
    try poller.add(socket.number, token: 0, writable: true)
    try poller.modify(socket.number, token: 0, readable: false, writable: true)
    var rest = bytes[...]
    while !rest.isEmpty {
      // The slice stays for the length of the call.
      let result = unsafe rest.withUnsafeBytes {
        unsafe FileDescriptor.send(socket.number, from: $0)
      }
      switch result {
      case .moved(let count):
        rest = rest.dropFirst(count)
        sentBytes += Double(count)
      case .wouldBlock:
        guard try poller.wait(timeoutMilliseconds: 10_000) > 0 else { throw NoAnswer() }
      case .failed: return
      }
    }
  }

  func endSending() { Socket.endSending(socket.number) }

  /// The bytes of a request's HEADERS; `path` is the method of the test's service.
  static func head(
    _ stream: UInt32, _ method: String, _ more: [(String, String)] = [], ends: Bool = false
  ) -> [UInt8] {
    var fields = Self.fields(method)
    for field in more {
      if let at = fields.firstIndex(where: { $0.0 == field.0 }) {
        fields[at] = field
      } else {
        fields.append(field)
      }
    }
    return Frame.headers(stream, fields, ends: ends)
  }

  /// What every request says.
  static func fields(_ method: String) -> [(String, String)] {
    [
      (":method", "POST"), (":scheme", "http"), (":path", "/test.Service/\(method)"),
      (":authority", "test"), ("content-type", "application/grpc"), ("te", "trailers"),
    ]
  }

  func newStream() -> UInt32 {
    defer { nextStream += 2 }
    return nextStream
  }

  /// Begins a call with a whole message.
  @discardableResult
  func start(
    _ method: String, _ message: [UInt8] = [], _ fields: [(String, String)] = []
  ) throws -> UInt32 {
    try start(method, body: Frame.message(message), fields)
  }

  /// Begins a call with any body, in frames of `chunk` bytes.
  @discardableResult
  func start(
    _ method: String, body: [UInt8], _ fields: [(String, String)] = [], chunk: Int = 16_384
  ) throws -> UInt32 {
    let stream = newStream()
    var bytes = Self.head(stream, method, fields, ends: body.isEmpty)
    for start in stride(from: 0, to: body.count, by: chunk) {
      let end = min(start + chunk, body.count)
      bytes += Frame.data(stream, Array(body[start..<end]), ends: end == body.count)
    }
    try send(bytes)
    return stream
  }

  // MARK: Receiving

  struct NoAnswer: Error {}

  /// Reads until `condition`; false where the server closed, or so many seconds passed, before.
  @discardableResult
  func read(seconds: Int64 = 10, until condition: (Client) -> Bool) throws -> Bool {
    let poller = try Poller(capacity: 1)
    try poller.add(socket.number, token: 0)
    let deadline = SystemClock.monotonicNanoseconds() + seconds * second
    while !condition(self) {
      if isClosed || SystemClock.monotonicNanoseconds() > deadline { return false }
      guard try poller.wait(timeoutMilliseconds: 100) > 0 else { continue }
      try receive()
    }
    return true
  }

  private func receive() throws {
    var buffer = [UInt8](repeating: 0, count: 256 * 1024)
    let result = unsafe buffer.withUnsafeMutableBytes {
      unsafe FileDescriptor.read(socket.number, into: $0)
    }
    switch result {
    case .moved(0), .failed: isClosed = true
    case .moved(let count):
      input += buffer[..<count]
      if speaksHTTP2 { try readFrames() }
    case .wouldBlock: break
    }
  }

  /// The outcome of a call.
  func answer(_ stream: UInt32) throws -> CallState {
    guard try read(until: { $0.calls[stream]?.hasEnded ?? false }), let call = calls[stream] else {
      throw NoAnswer()
    }
    return call
  }

  /// Lets go of what has come of a call.
  func forget(_ stream: UInt32) { calls[stream] = nil }

  func call(
    _ method: String, _ message: [UInt8] = [], _ fields: [(String, String)] = []
  ) throws -> CallState {
    try answer(try start(method, message, fields))
  }

  private func readFrames() throws {
    var at = 0
    while input.count - at >= 9 {
      let length = Int(input[at]) << 16 | Int(input[at + 1]) << 8 | Int(input[at + 2])
      guard input.count - at >= 9 + length else { break }
      let stream = input[at + 5..<at + 9].reduce(0 as UInt32) { $0 << 8 | UInt32($1) }
      try handle(input[at + 3], input[at + 4], stream, input[at + 9..<at + 9 + length])
      at += 9 + length
    }
    input.removeFirst(at)
  }

  private func handle(
    _ type: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: ArraySlice<UInt8>
  ) throws {
    func number(_ bytes: ArraySlice<UInt8>) -> UInt32 {
      bytes.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }
    switch type {
    case 0:
      calls[stream, default: CallState()].body += payload
      if flags & 1 != 0 { calls[stream]?.hasEnded = true }
    case 1:
      try #require(flags & 4 != 0, "header blocks of the server fit one frame")
      for (name, value) in readFields(payload) {
        calls[stream, default: CallState()].fields[name] = value
      }
      if flags & 1 != 0 { calls[stream]?.hasEnded = true }
    case 3:
      calls[stream, default: CallState()].resetCode = number(payload)
      calls[stream]?.hasEnded = true
    case 4 where flags & 1 == 0:
      isGreeted = true
      try send(Frame.bytes(4, 1, 0, []))
    case 7: goAways.append(number(payload))
    default: break
    }
  }

  /// HPACK (RFC 7541) as far as the server uses it: no Huffman coding.
  private func readFields(_ block: ArraySlice<UInt8>) -> [(String, String)] {
    var rest = block
    func integer(_ first: UInt8, _ prefix: Int) -> Int {
      let most = 1 << prefix - 1
      var value = Int(first) & most
      var shift = 0
      while value >= most, let byte = rest.popFirst() {
        value += Int(byte & 127) << shift
        shift += 7
        if byte < 128 { break }
      }
      return value
    }
    func string() -> String {
      guard let first = rest.popFirst() else { return "" }
      let length = integer(first, 7)
      defer { rest = rest.dropFirst(length) }
      return String(decoding: rest.prefix(length), as: UTF8.self)
    }
    func entry(_ index: Int) -> (String, String) {
      switch index {
      case 8: (":status", "200")
      case 31: ("content-type", "")
      case 62...: index - 62 < dynamicTable.count ? dynamicTable[index - 62] : ("?", "?")
      default: ("?", "?")
      }
    }
    var fields: [(String, String)] = []
    while let first = rest.popFirst() {
      if first & 0x80 != 0 {
        fields.append(entry(integer(first, 7)))
      } else if first & 0xe0 == 0x20 {
        _ = integer(first, 5)
      } else {
        let isKept = first & 0x40 != 0
        let index = integer(first, isKept ? 6 : 4)
        let name = index == 0 ? string() : entry(index).0
        let value = string()
        fields.append((name, value))
        if isKept { dynamicTable.insert((name, value), at: 0) }
      }
    }
    return fields
  }
}
