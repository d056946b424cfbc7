// Protobuf's wire format by hand (protobuf.dev, "Encoding"): what the tests send and read is not made
// by the code that they test.

/// A message while it is made.
struct Message {
  private(set) var bytes: [UInt8] = []

  static func varint(_ value: UInt64) -> [UInt8] {
    var value = value
    var bytes: [UInt8] = []
    while value > 0x7f {
      bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    return bytes + [UInt8(value)]
  }

  /// This message with one field more; a default value is written too.
  func with(_ number: Int, _ value: Int64) -> Message {
    adding(Self.varint(UInt64(number << 3)) + Self.varint(UInt64(bitPattern: value)))
  }

  func with(_ number: Int, _ value: Bool) -> Message { with(number, value ? 1 : 0 as Int64) }

  func with(_ number: Int, _ text: String) -> Message { with(number, Array(text.utf8)) }

  func with(_ number: Int, _ message: Message) -> Message { with(number, message.bytes) }

  func with(_ number: Int, _ value: [UInt8]) -> Message {
    adding(Self.varint(UInt64(number << 3 | 2)) + Self.varint(UInt64(value.count)) + value)
  }

  func adding(_ more: [UInt8]) -> Message {
    var message = self
    message.bytes += more
    return message
  }
}

/// A message that was read: its fields in their order.
struct Fields: Equatable {
  enum Value: Equatable {
    case number(UInt64)
    case bytes([UInt8])
    case group
  }

  private(set) var fields: [(number: Int, value: Value)] = []

  static func == (a: Fields, b: Fields) -> Bool {
    a.fields.count == b.fields.count
      && zip(a.fields, b.fields).allSatisfy { $0.number == $1.number && $0.value == $1.value }
  }

  /// nil where the bytes are no message.
  init?(_ bytes: [UInt8]) {
    var reader = Reader(bytes: bytes[...])
    while !reader.bytes.isEmpty {
      guard let tag = reader.tag(), let value = reader.value(tag) else { return nil }
      fields.append((Int(tag >> 3), value))
    }
  }

  private struct Reader {
    var bytes: ArraySlice<UInt8>

    mutating func varint(bytesMax: UInt64 = 10) -> UInt64? {
      var value: UInt64 = 0
      for shift in 0..<bytesMax {
        guard let byte = bytes.popFirst() else { return nil }
        value |= UInt64(byte & 0x7f) << (7 * shift)
        if byte < 0x80 { return value }
      }
      return nil
    }

    mutating func tag() -> UInt64? {
      varint(bytesMax: 5).flatMap { $0 >> 3 > 0 && $0 <= UInt32.max ? $0 : nil }
    }

    mutating func value(_ tag: UInt64, depth: Int = 0) -> Value? {
      switch tag & 7 {
      case 0: return varint().map { .number($0) }
      case 1: return take(8).map { .bytes($0) }
      case 2: return varint(bytesMax: 5).flatMap { take($0) }.map { .bytes($0) }
      case 3:
        while depth < 100, let inner = self.tag() {
          if inner & 7 == 4 { return inner >> 3 == tag >> 3 ? .group : nil }
          if value(inner, depth: depth + 1) == nil { return nil }
        }
        return nil
      case 5: return take(4).map { .bytes($0) }
      default: return nil
      }
    }

    private mutating func take(_ count: UInt64) -> [UInt8]? {
      guard count <= UInt64(bytes.count) else { return nil }
      defer { bytes = bytes.dropFirst(Int(count)) }
      return Array(bytes.prefix(Int(count)))
    }
  }

  func number(_ number: Int) -> Int64 {
    guard case .number(let value)? = fields.last(where: { $0.number == number })?.value
    else { return 0 }
    return Int64(bitPattern: value)
  }

  func flag(_ number: Int) -> Bool { self.number(number) != 0 }

  func bytes(_ number: Int) -> [[UInt8]] {
    fields.compactMap { field in
      guard field.number == number, case .bytes(let bytes) = field.value else { return nil }
      return bytes
    }
  }

  func text(_ number: Int) -> String {
    String(decoding: bytes(number).last ?? [], as: UTF8.self)
  }

  func texts(_ number: Int) -> [String] {
    bytes(number).map { String(decoding: $0, as: UTF8.self) }
  }

  func messages(_ number: Int) -> [Fields] { bytes(number).compactMap { Fields($0) } }

  func message(_ number: Int) -> Fields? { messages(number).last }

  /// A google.protobuf.Timestamp or Duration in nanoseconds.
  func time(_ number: Int) -> Int64? {
    message(number).map { $0.number(1) * 1_000_000_000 + $0.number(2) }
  }
}
