// A message's properties and headers, as AMQP has them on the wire (AMQP 0-9-1, section 4.2.6.1), and as CloudEvents are
// mapped to them (CloudEvents' AMQP binding, binary mode).
internal import Bytes
internal import CRabbitMQ
internal import Messaging

/// Of the property flags, those that are written or read. What is set comes in this order, with the highest first.
private enum Property {
  static let contentType: UInt16 = 1 << 15
  static let contentEncoding: UInt16 = 1 << 14
  static let headers: UInt16 = 1 << 13
  static let deliveryMode: UInt16 = 1 << 12
  static let priority: UInt16 = 1 << 11
  static let correlationID: UInt16 = 1 << 10
  static let replyTo: UInt16 = 1 << 9
  static let expiration: UInt16 = 1 << 8
  static let messageID: UInt16 = 1 << 7
  static let timestamp: UInt16 = 1 << 6
  static let type: UInt16 = 1 << 5
  static let appID: UInt16 = 1 << 3
}

private let basicClass: UInt16 = 60
/// It outlives the broker's restart.
private let persistent: UInt8 = 2

/// Writes messages. What is the same in all of one program's is made once.
struct MessageWriter {
  private let program: String
  private let longString = UInt8(ascii: "S")

  init(program: String) { self.program = program }

  /// What AMQP has no room for; nil: nothing.
  func unwritable(_ message: BrokerMessage) -> String? {
    let short = [
      ("destination", message.destination), ("routing key", message.routingKey),
      ("id", message.id), ("type", message.type), ("content type", message.contentType),
      ("correlation id", message.correlationID), ("reply-to", message.replyTo),
    ]
    for (name, text) in short where text.utf8.count > 255 {
      return "its \(name) is longer than the 255 bytes that AMQP has for it"
    }
    for attribute in message.attributes where attribute.name.utf8.count > 100 {
      return "an attribute's name is longer than 100 bytes"
    }
    return nil
  }

  /// Appends the frames of a message. False: properties and headers do not fit into a frame; nothing was appended.
  /// - Parameters:
  ///   - message: one that is not `unwritable`.
  ///   - frameBytesMax: of a frame with all that is around its payload.
  func append(
    _ message: BrokerMessage, channel: UInt16, frameBytesMax: Int, to output: inout [UInt8]
  ) -> Bool {
    let start = output.count
    appendPublish(message, channel: channel, to: &output)
    let header = output.count
    output.appendFrame(.header, channel: channel, byteCount: 0)
    output.append(bigEndian: basicClass)
    output.append(bigEndian: 0 as UInt16)
    output.append(bigEndian: UInt64(message.body.count))
    appendProperties(of: message, to: &output)
    guard output.count - header < frameBytesMax else {
      output.removeSubrange(start...)
      return false
    }
    output.setLength(at: header + 3, to: output.count - header - Frame.headerBytes)
    output.append(Frame.end)
    let part = frameBytesMax - Frame.headerBytes - 1
    var sent = 0
    while sent < message.body.count {
      let count = min(part, message.body.count - sent)
      output.appendFrame(.body, channel: channel, byteCount: count)
      output.append(contentsOf: message.body[sent..<(sent + count)])
      output.append(Frame.end)
      sent += count
    }
    return true
  }

  /// basic.publish. By hand: for this one method the way through the library costs as much as all the rest.
  private func appendPublish(_ message: BrokerMessage, channel: UInt16, to output: inout [UInt8]) {
    let names = message.destination.utf8.count + message.routingKey.utf8.count
    output.appendMethod(
      UInt32(AMQP_BASIC_PUBLISH_METHOD), channel: channel, byteCount: 2 + 2 + names + 1
    ) {
      $0.append(bigEndian: 0 as UInt16)
      $0.appendShort(message.destination)
      $0.appendShort(message.routingKey)
      $0.append(message.isMandatory ? 1 : 0)
    }
  }

  private func appendProperties(of message: BrokerMessage, to output: inout [UInt8]) {
    var flags = Property.headers | Property.deliveryMode | Property.appID
    if !message.contentType.isEmpty { flags |= Property.contentType }
    if !message.correlationID.isEmpty { flags |= Property.correlationID }
    if !message.replyTo.isEmpty { flags |= Property.replyTo }
    if !message.id.isEmpty { flags |= Property.messageID }
    if message.time > 0 { flags |= Property.timestamp }
    if !message.type.isEmpty { flags |= Property.type }
    output.append(bigEndian: flags)
    if !message.contentType.isEmpty { output.appendShort(message.contentType) }
    appendHeaders(of: message, to: &output)
    output.append(persistent)
    if !message.correlationID.isEmpty { output.appendShort(message.correlationID) }
    if !message.replyTo.isEmpty { output.appendShort(message.replyTo) }
    if !message.id.isEmpty { output.appendShort(message.id) }
    if message.time > 0 { output.append(bigEndian: UInt64(message.time / 1_000_000_000)) }
    if !message.type.isEmpty { output.appendShort(message.type) }
    output.appendShort(program)
  }

  private func appendHeaders(of message: BrokerMessage, to output: inout [UInt8]) {
    let start = output.count
    output.append(bigEndian: 0 as UInt32)
    appendHeader("cloudEvents_specversion", "1.0", to: &output)
    appendHeader("cloudEvents_id", message.id, to: &output)
    appendHeader("cloudEvents_source", message.source, to: &output)
    appendHeader("cloudEvents_type", message.type, to: &output)
    appendHeader("cloudEvents_partitionkey", message.partitionKey, to: &output)
    if message.time != 0 {
      output.appendShort("cloudEvents_time")
      output.append(longString)
      let place = output.count
      output.append(bigEndian: 0 as UInt32)
      TimeText.append(nanoseconds: message.time, to: &output)
      output.setLength(at: place, to: output.count - place - 4)
    }
    for attribute in message.attributes {
      output.append(UInt8(12 + attribute.name.utf8.count))
      output.append(contentsOf: "cloudEvents_".utf8)
      output.append(contentsOf: attribute.name.utf8)
      output.append(longString)
      output.appendLong(attribute.value)
    }
    output.setLength(at: start, to: output.count - start - 4)
  }

  /// Nothing where the value is empty: an attribute of CloudEvents is not.
  private func appendHeader(_ name: String, _ value: String, to output: inout [UInt8]) {
    if value.isEmpty { return }
    output.appendShort(name)
    output.append(longString)
    output.appendLong(value)
  }
}

extension BrokerMessage {
  /// Nobody else would have it: the queue that it names has to be there. A direct reply-to is no queue, so that a broker
  /// returns what is mandatory also where it has given it to whoever waits for it.
  var isMandatory: Bool { destination.isEmpty && !routingKey.hasPrefix("amq.rabbitmq.reply-to.") }
}

extension [UInt8] {
  /// The length of what was appended since.
  fileprivate mutating func setLength(at place: Int, to length: Int) {
    let value = UInt32(length)
    for index in 0..<4 {
      self[place + index] = UInt8(truncatingIfNeeded: value >> (24 - 8 * UInt32(index)))
    }
  }
}

/// What a broker says of a message in its header frame.
struct ContentHeader: Equatable {
  var bodyBytes: UInt64 = 0
  var id = ""
  var type = ""
  var contentType = ""
  var partitionKey = ""
  var correlationID = ""
  var replyTo = ""
  /// As a quorum queue counts them.
  var earlierDeliveries = 0
}

/// Reads header frames. Senders set what they like: what cannot be read, and all behind it, is left out. A message that
/// could not be read at all would come again for ever.
struct HeaderReader {
  /// Texts that most messages have in common, so that they are not made anew.
  private var lastContentType = ""
  private var lastReplyTo = ""

  /// - Throws: where there is no class or size of the body: that is the broker's.
  @unsafe mutating func read(_ payload: UnsafeRawBufferPointer) throws(BrokerError) -> ContentHeader
  {
    var bytes = unsafe ByteCursor(payload)
    guard let kind = bytes.integer(UInt16.self), bytes.integer(UInt16.self) != nil,
      let size = bytes.integer(UInt64.self), kind == basicClass
    else { throw .fault("a message without a header") }
    var header = ContentHeader()
    header.bodyBytes = size
    _ = readProperties(&bytes, &header)
    return header
  }

  /// nil: it ended before its end.
  private mutating func readProperties(
    _ bytes: inout ByteCursor, _ header: inout ContentHeader
  ) -> Void? {
    // The lowest bit: more flags follow, of which AMQP has none.
    guard let flags = bytes.integer(UInt16.self), flags & 1 == 0 else { return nil }
    func has(_ property: UInt16) -> Bool { flags & property != 0 }
    if has(Property.contentType) {
      guard let text = bytes.short() else { return nil }
      header.contentType = bytes.text(text, sameAs: &lastContentType)
    }
    if has(Property.contentEncoding), bytes.short() == nil { return nil }
    if has(Property.headers) {
      guard let table = bytes.long() else { return nil }
      readHeaders(bytes.part(table), &header)
    }
    if has(Property.deliveryMode), bytes.skip(1) == nil { return nil }
    if has(Property.priority), bytes.skip(1) == nil { return nil }
    if has(Property.correlationID) {
      guard let text = bytes.short() else { return nil }
      header.correlationID = bytes.text(text)
    }
    if has(Property.replyTo) {
      guard let text = bytes.short() else { return nil }
      header.replyTo = bytes.text(text, sameAs: &lastReplyTo)
    }
    if has(Property.expiration), bytes.short() == nil { return nil }
    if has(Property.messageID) {
      guard let text = bytes.short() else { return nil }
      if header.id.isEmpty {
        // A sender that names itself by its message's id is common.
        let isSame = bytes.equals(text, header.correlationID)
        header.id = isSame ? header.correlationID : bytes.text(text)
      }
    }
    if has(Property.timestamp), bytes.skip(8) == nil { return nil }
    if has(Property.type) {
      guard let text = bytes.short() else { return nil }
      if header.type.isEmpty { header.type = bytes.text(text) }
    }
    return ()
  }

  private func readHeaders(_ table: ByteCursor, _ header: inout ContentHeader) {
    var bytes = table
    while !bytes.isAtEnd {
      guard let name = bytes.short(), let kind = bytes.integer(UInt8.self) else { return }
      guard kind == UInt8(ascii: "S") else {
        guard let value = bytes.value(ofKind: kind) else { return }
        if let number = value, bytes.equals(name, "x-delivery-count") {
          header.earlierDeliveries = Int(clamping: max(0, number))
        }
        continue
      }
      guard let value = bytes.long() else { return }
      // Both are CloudEvents' prefixes: JMS has no colon in names.
      guard bytes.starts(name, with: "cloudEvents_") || bytes.starts(name, with: "cloudEvents:")
      else { continue }
      let attribute = (name.lowerBound + 12)..<name.upperBound
      if bytes.equals(attribute, "id") { header.id = bytes.text(value) }
      if bytes.equals(attribute, "type") { header.type = bytes.text(value) }
      if bytes.equals(attribute, "partitionkey") { header.partitionKey = bytes.text(value) }
    }
  }
}

/// Reads big-endian bytes, and stops at their end. Texts are named by their places.
@safe private struct ByteCursor {
  private let bytes: UnsafeRawBufferPointer
  private var place = 0

  /// - Safety: `bytes` must outlive this.
  @unsafe init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = unsafe bytes }

  var isAtEnd: Bool { unsafe place == bytes.count }

  mutating func skip(_ count: Int) -> Range<Int>? {
    guard unsafe count <= bytes.count - place else { return nil }
    place += count
    return (place - count)..<place
  }

  mutating func integer<Value: FixedWidthInteger & BitwiseCopyable>(_: Value.Type) -> Value? {
    guard let range = skip(MemoryLayout<Value>.size) else { return nil }
    // The range is within the bytes.
    return unsafe Value(
      bigEndian: bytes.loadUnaligned(fromByteOffset: range.lowerBound, as: Value.self))
  }

  mutating func short() -> Range<Int>? {
    guard let count = integer(UInt8.self) else { return nil }
    return skip(Int(count))
  }

  mutating func long() -> Range<Int>? {
    guard let count = integer(UInt32.self) else { return nil }
    return skip(Int(count))
  }

  /// A field of a table that is no text: its number where it is an integer; nil where it cannot be read.
  mutating func value(ofKind kind: UInt8) -> Int64?? {
    switch kind {
    case UInt8(ascii: "b"): return integer(Int8.self).map { Int64($0) }
    case UInt8(ascii: "B"): return integer(UInt8.self).map { Int64($0) }
    case UInt8(ascii: "s"): return integer(Int16.self).map { Int64($0) }
    case UInt8(ascii: "u"): return integer(UInt16.self).map { Int64($0) }
    case UInt8(ascii: "I"): return integer(Int32.self).map { Int64($0) }
    case UInt8(ascii: "i"): return integer(UInt32.self).map { Int64($0) }
    case UInt8(ascii: "l"): return integer(Int64.self).map { $0 }
    case UInt8(ascii: "L"): return integer(UInt64.self).map { Int64(clamping: $0) }
    case UInt8(ascii: "t"): return skip(1).map { _ in nil }
    case UInt8(ascii: "f"): return skip(4).map { _ in nil }
    case UInt8(ascii: "d"), UInt8(ascii: "T"): return skip(8).map { _ in nil }
    case UInt8(ascii: "D"): return skip(5).map { _ in nil }
    case UInt8(ascii: "V"): return .some(nil)
    // Tables in tables are stepped over as a whole.
    case UInt8(ascii: "A"), UInt8(ascii: "F"), UInt8(ascii: "x"): return long().map { _ in nil }
    default: return nil
    }
  }

  func part(_ range: Range<Int>) -> ByteCursor { unsafe ByteCursor(slice(range)) }

  /// Checked: a range beyond the bytes traps.
  private func slice(_ range: Range<Int>) -> UnsafeRawBufferPointer {
    unsafe precondition(range.upperBound <= bytes.count, "a range beyond the bytes")
    return unsafe UnsafeRawBufferPointer(rebasing: bytes[range])
  }

  /// What is no UTF-8 in it is replaced.
  func text(_ range: Range<Int>) -> String {
    unsafe String(decoding: slice(range), as: UTF8.self)
  }

  /// The same, without making it anew where it is the text of before.
  func text(_ range: Range<Int>, sameAs before: inout String) -> String {
    if !equals(range, before) { before = text(range) }
    return before
  }

  func equals(_ range: Range<Int>, _ text: String) -> Bool {
    range.count == text.utf8.count && starts(range, with: text)
  }

  func starts(_ range: Range<Int>, with text: String) -> Bool {
    unsafe slice(range).starts(with: text.utf8)
  }
}
