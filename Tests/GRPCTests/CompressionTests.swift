import GRPC
import Testing

private let text = Array("reserve one, reserve two, reserve three".utf8)
// Made by Python's zlib and gzip of `text`.
private let rawDeflate = "2b4a2d4e2d2a4b55c8cf4bd5512882724acaf391381945a9a900"
private let zlibText = "789c\(rawDeflate)25060ea1"

private let gzipHead = "1f8b0800000000000203"
private let gzipText = "\(gzipHead)\(rawDeflate)ff53645f27000000"

private let foreignStreams: [(MessageEncoding, String)] = [
  (.deflate, zlibText),
  // One stored block.
  (.deflate, "7801012700d8ff\(hexadecimal(text))25060ea1"),
  (.gzip, gzipText),
  // With a file name and a time in its header.
  (.gzip, "1f8b08080100000002ff6e616d652e74787400\(rawDeflate)ff53645f27000000"),
]

private let malformedStreams: [(MessageEncoding, String)] = [
  (.gzip, ""), (.deflate, ""), (.gzip, "00"), (.deflate, "00"),
  (.gzip, zlibText), (.deflate, gzipText), (.deflate, rawDeflate), (.gzip, rawDeflate),
  // Something behind the end: a byte, a line's end, the same again.
  (.gzip, "\(gzipText)00"), (.deflate, "\(zlibText)0a"), (.gzip, "\(gzipText)\(gzipText)"),
  (.deflate, "\(zlibText)\(zlibText)"),
  // Checksums, and gzip's length, that are wrong.
  (.deflate, "\(zlibText.dropLast(2))a2"), (.gzip, "\(gzipText.dropLast(8))28000000"),
  (.gzip, "\(gzipHead)\(rawDeflate)ff53645e27000000"),
  // A preset dictionary ("reserve").
  (.deflate, "78bb0bfd02fd2b82500af979a93a0a304e49793e1227a32835150025060ea1"),
  // A flushed stream without an end.
  (.deflate, "789c2a4a2d4e2d2a4b55c8cf4bd5512882724acaf391381945a9a900000000ffff"),
  // A block type that does not exist; a distance before the start.
  (.deflate, "789c07"), (.deflate, "789c4b040200"),
]

private let encodingFields: [(String, MessageEncoding?)] = [
  ("", .identity), ("identity", .identity), ("gzip", .gzip), (" gzip\t", .gzip),
  ("deflate", .deflate), ("GZIP", nil), ("gzip,deflate", nil), ("x-gzip", nil), ("gzi", nil),
  ("gzipp", nil), ("snappy", nil), ("gz ip", nil), ("\0", nil),
]

private let acceptFields: [(String, MessageEncodings)] = [
  ("", MessageEncodings(.identity)), ("identity", MessageEncodings()),
  ("gzip", MessageEncodings(.gzip)),
  ("identity,deflate,gzip", MessageEncodings(.gzip, .deflate)),
  (" gzip \t,\tdeflate ", MessageEncodings(.gzip, .deflate)),
  (",,gzip,", MessageEncodings(.gzip)), (",", MessageEncodings()), (" , ", MessageEncodings()),
  ("br, zstd, snappy", MessageEncodings()), ("gzip;q=1", MessageEncodings()),
  ("GZIP", MessageEncodings()), ("gzip deflate", MessageEncodings()),
  (String(repeating: "gzip,", count: 1_000) + "deflate", MessageEncodings(.gzip, .deflate)),
]

private func bytes(_ hexadecimal: some StringProtocol) -> [UInt8] {
  var digits = hexadecimal[...]
  var result: [UInt8] = []
  while !digits.isEmpty {
    result.append(UInt8(digits.prefix(2), radix: 16) ?? 0)
    digits = digits.dropFirst(2)
  }
  return result
}

/// What an inflater makes of a message.
private enum Outcome: Equatable {
  case message([UInt8])
  case failure(Inflater.Result)
}

extension Inflater {
  fileprivate func outcome(_ message: [UInt8], _ encoding: MessageEncoding) -> Outcome {
    let result = inflate(message.span, encoding)
    guard case .inflated(let length) = result else { return .failure(result) }
    let message = withMessage { span in span.indices.map { span[$0] } }
    precondition(message.count == length)
    return .message(message)
  }
}

extension Deflater {
  fileprivate func compressed(_ message: [UInt8], _ encoding: MessageEncoding) -> [UInt8]? {
    guard deflate(message.span, encoding) else { return nil }
    return withMessage { span in span.indices.map { span[$0] } }
  }
}

@Suite("Message compression")
struct CompressionTests {
  @Test(
    "Streams of another implementation, of every kind of block",
    arguments: foreignStreams)
  func foreign(encoding: MessageEncoding, stream: String) {
    let inflater = Inflater(messageBytesMax: 100)
    for _ in 0..<3 { #expect(inflater.outcome(bytes(stream), encoding) == .message(text)) }
  }

  @Test("An empty message is a stream too")
  func empty() {
    let inflater = Inflater(messageBytesMax: 0)
    #expect(inflater.outcome(bytes("030000000001"), .deflate) == .failure(.malformed))
    #expect(inflater.outcome(bytes("789c030000000001"), .deflate) == .message([]))
    let gzip = bytes("1f8b080000000000020303000000000000000000")
    #expect(inflater.outcome(gzip, .gzip) == .message([]))
  }

  @Test(
    "What is not one whole stream of its format is malformed",
    arguments: malformedStreams)
  func malformed(encoding: MessageEncoding, stream: String) {
    let inflater = Inflater(messageBytesMax: 1_000)
    #expect(inflater.outcome(bytes(stream), encoding) == .failure(.malformed))
    // The next message does not suffer from it.
    #expect(inflater.outcome(bytes(gzipText), .gzip) == .message(text))
    #expect(inflater.outcome(bytes(zlibText), .deflate) == .message(text))
  }

  @Test("Cut off anywhere, a stream is malformed", arguments: [MessageEncoding.gzip, .deflate])
  func truncated(encoding: MessageEncoding) {
    let inflater = Inflater(messageBytesMax: 1_000)
    let stream = bytes(encoding == .gzip ? gzipText : zlibText)
    for length in 0..<stream.count {
      let outcome = inflater.outcome(Array(stream.prefix(length)), encoding)
      #expect(outcome == .failure(.malformed), "\(length) bytes")
    }
  }

  @Test("A flipped bit is never another message", arguments: [MessageEncoding.gzip, .deflate])
  func flipped(encoding: MessageEncoding) {
    let inflater = Inflater(messageBytesMax: 1_000)
    let stream = bytes(encoding == .gzip ? gzipText : zlibText)
    for bit in 0..<stream.count * 8 {
      var stream = stream
      stream[bit / 8] ^= 1 << UInt8(bit % 8)
      let outcome = inflater.outcome(stream, encoding)
      // Not every bit says something about the message: gzip's time, what pads the last byte.
      if outcome == .message(text) { continue }
      #expect(outcome == .failure(.malformed) || outcome == .failure(.tooLarge), "bit \(bit)")
    }
  }

  @Test(
    "The limit is the last length that is allowed", arguments: [MessageEncoding.gzip, .deflate])
  func limit(encoding: MessageEncoding) throws {
    let deflater = Deflater()
    for length in [1_000, 65_536] {
      let message = [UInt8](repeating: 7, count: length)
      let stream = try #require(deflater.compressed(message, encoding))
      let inflater = Inflater(messageBytesMax: length)
      #expect(inflater.outcome(stream, encoding) == .message(message))
      let longer = try #require(deflater.compressed(message + [7], encoding))
      #expect(inflater.outcome(longer, encoding) == .failure(.tooLarge))
      #expect(inflater.outcome(stream, encoding) == .message(message))
    }
  }

  @Test("A bomb is too large, at once and again", arguments: [MessageEncoding.gzip, .deflate])
  func bomb(encoding: MessageEncoding) throws {
    let zeros = [UInt8](repeating: 0, count: 64 << 20)
    let bomb = try #require(Deflater().compressed(zeros, encoding))
    #expect(bomb.count < zeros.count / 100)
    let inflater = Inflater(messageBytesMax: 80 * 1_024)
    // A bomb that is cut off is as large.
    for bomb in [bomb, Array(bomb.prefix(bomb.count / 2)), bomb] {
      #expect(inflater.outcome(bomb, encoding) == .failure(.tooLarge))
    }
    #expect(inflater.outcome(bytes(gzipText), .gzip) == .message(text))
  }

  @Test("Random bytes are never a message, and never stop the inflater")
  func random() {
    let seed = UInt64.random(in: 1...UInt64.max)
    var state = seed
    func next() -> UInt64 {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return state
    }
    let inflater = Inflater(messageBytesMax: 4_096)
    for round in 0..<2_000 {
      let encoding = round % 2 == 0 ? MessageEncoding.gzip : .deflate
      let head = encoding == .gzip ? bytes("1f8b0800000000000203") : bytes("789c")
      let rest = (0..<Int(next() % 300)).map { _ in UInt8(truncatingIfNeeded: next() >> 32) }
      let outcome = inflater.outcome(head + rest, encoding)
      if case .message = outcome { Issue.record("seed \(seed), round \(round)") }
    }
  }

  @Test("What is worth compressing comes back as it was", arguments: [7, 512, 513, 5_000, 300_000])
  func roundTrip(length: Int) {
    let deflater = Deflater()
    let inflater = Inflater(messageBytesMax: length)
    let message = (0..<length).map { UInt8(truncatingIfNeeded: $0 / 9 ^ $0 % 3) }
    for encoding in [MessageEncoding.gzip, .deflate, .gzip, .deflate] {
      let stream = deflater.compressed(message, encoding)
      #expect((stream == nil) == (length < Deflater.messageBytesMin))
      guard let stream else { continue }
      #expect(stream.count <= length - length / 8)
      #expect(inflater.outcome(stream, encoding) == .message(message))
    }
  }

  @Test("What does not shrink is left as it is, and the next message is not")
  func notWorthIt() {
    let deflater = Deflater()
    let noise = (0..<4_096).map { _ in UInt8.random(in: 0...255) }
    let zeros = [UInt8](repeating: 0, count: 4_096)
    for encoding in [MessageEncoding.gzip, .deflate] {
      #expect(deflater.compressed(noise, encoding) == nil)
      #expect(deflater.compressed([], encoding) == nil)
      #expect(deflater.compressed(zeros, encoding).map { $0.count < 64 } == true)
    }
  }

  @Test(
    "grpc-encoding",
    arguments: encodingFields)
  func encodingField(value: String, encoding: MessageEncoding?) {
    #expect(MessageEncoding(field: Array(value.utf8).span) == encoding)
  }

  @Test(
    "grpc-accept-encoding",
    arguments: acceptFields)
  func acceptField(value: String, encodings: MessageEncodings) {
    #expect(MessageEncodings(field: Array(value.utf8).span) == encodings)
    #expect(encodings.contains(.identity))
  }

  @Test("A response is compressed as its request was, if the client takes that")
  func choice() {
    let all = MessageEncodings(.gzip, .deflate)
    for encoding in MessageEncoding.allCases {
      #expect(MessageEncoding.response(toRequest: encoding, accepting: all) == encoding)
      #expect(MessageEncoding.response(toRequest: encoding, accepting: nil) == encoding)
      let none = MessageEncoding.response(toRequest: encoding, accepting: MessageEncodings())
      #expect(none == .identity)
    }
  }
}

private func hexadecimal(_ bytes: [UInt8]) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}
