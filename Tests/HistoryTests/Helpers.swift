// A second, plain way to read and write protobuf, and numbers to draw from.

func varintBytes(_ value: UInt64) -> [UInt8] {
  value < 128 ? [UInt8(value)] : [UInt8(value & 127) | 128] + varintBytes(value >> 7)
}

/// A protobuf message, the slow and plain way.
struct Fields {
  private(set) var fields: [(number: UInt64, isNumber: Bool, value: UInt64, bytes: [UInt8])] = []

  init(_ message: [UInt8]) {
    var at = 0
    func varint() -> UInt64 {
      var value: UInt64 = 0
      var shift: UInt64 = 0
      while at < message.count {
        value |= UInt64(message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128 { break }
      }
      return value
    }
    while at < message.count {
      let tag = varint()
      if tag & 7 == 0 {
        fields.append((tag >> 3, true, varint(), []))
      } else {
        let length = Int(varint())
        fields.append((tag >> 3, false, 0, Array(message[at..<at + length])))
        at += length
      }
    }
  }

  func number(_ field: UInt64) -> UInt64 { fields.last { $0.number == field }?.value ?? 0 }
  func text(_ field: UInt64) -> String {
    String(decoding: fields.last { $0.number == field }?.bytes ?? [], as: UTF8.self)
  }
  func nested(_ field: UInt64) -> [Fields] {
    fields.filter { $0.number == field }.map { Fields($0.bytes) }
  }

  static func varint(_ field: UInt64, _ value: UInt64) -> [UInt8] {
    varintBytes(field << 3) + varintBytes(value)
  }
  static func bytes(_ field: UInt64, _ bytes: [UInt8]) -> [UInt8] {
    varintBytes(field << 3 | 2) + varintBytes(UInt64(bytes.count)) + bytes
  }
}

func array(_ span: borrowing Swift.Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }

/// Small, seeded, and the same everywhere.
struct Lehmer {
  var state: UInt64

  mutating func below(_ bound: Int) -> Int {
    state = state &* 48_271 % 0x7fff_ffff
    return Int(state % UInt64(bound))
  }
}
