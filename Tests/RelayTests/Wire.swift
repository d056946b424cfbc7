// Messages as a server writes them: protobuf's wire format, by hand.

/// A message, field by field.
struct Wire {
  private(set) var bytes: [UInt8] = []

  /// Left out where it is 0, as every writer does.
  func adding(_ number: Int, _ value: Int64) -> Wire {
    value == 0 ? self : adding(zeroToo: number, value)
  }

  func adding(zeroToo number: Int, _ value: Int64) -> Wire {
    var wire = self
    wire.append(varint: UInt64(number) << 3)
    wire.append(varint: UInt64(bitPattern: value))
    return wire
  }

  func adding(_ number: Int, _ text: String) -> Wire { adding(number, Array(text.utf8)) }

  func adding(_ number: Int, _ message: Wire) -> Wire { adding(number, message.bytes) }

  func adding(_ number: Int, _ bytes: [UInt8]) -> Wire {
    var wire = self
    wire.append(varint: UInt64(number) << 3 | 2)
    wire.append(varint: UInt64(bytes.count))
    wire.bytes += bytes
    return wire
  }

  private mutating func append(varint value: UInt64) {
    var rest = value
    while rest >= 0x80 {
      bytes.append(UInt8(rest & 0x7f) | 0x80)
      rest >>= 7
    }
    bytes.append(UInt8(rest))
  }
}

/// 2026-11-29T03:00:00.5Z.
let decidedAt = Wire().adding(1, 1_795_921_200).adding(2, 500_000_000)

func level(_ sku: String, at location: String = "", onHand: Int64 = 10, version: Int64 = 3) -> Wire
{
  Wire().adding(1, sku).adding(2, location).adding(3, onHand).adding(6, onHand).adding(7, version)
}

func line(_ sku: String, _ quantity: Int64) -> Wire { Wire().adding(1, sku).adding(3, quantity) }

/// A hold of two units.
func held(_ lsn: Int64, _ sku: String, kind: Int64 = 1) -> Wire {
  Wire().adding(1, lsn).adding(2, kind).adding(3, decidedAt).adding(4, "r-\(lsn)")
    .adding(5, "order-\(lsn)").adding(6, line(sku, 2)).adding(8, level(sku))
}

/// As a server writes one: a form, the store, the number, and two more.
func token(_ lsn: UInt64) -> String {
  let digits = String(lsn, radix: 16)
  return "1" + "00c0ffee00c0ffee" + String(repeating: "0", count: 16 - digits.count) + digits
    + String(repeating: "7", count: 32)
}

func response(_ events: [Wire], upTo lsn: UInt64) -> [UInt8] {
  events.reduce(Wire()) { $0.adding(1, $1) }.adding(2, token(lsn)).bytes
}
