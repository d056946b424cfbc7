// holdfast.v1.SaleWindow, read and written.
internal import Bytes
internal import StockStore

/// A SaleWindow as it came: sellable_from = 1, sellable_until = 2, frozen = 3.
struct ProtoSaleWindow {
  private(set) var isSet = false
  private var from = ProtoDuration()
  private var until = ProtoDuration()
  private var isFrozen = false

  /// Reads the field set_sale, or one part more of it.
  mutating func read(_ reader: inout ProtoReader) {
    isSet = true
    let submessage = reader.enter()
    while let tag = reader.next() {
      switch tag {
      // A Timestamp has the fields of a Duration.
      case .bytes(1): from.read(&reader, "set_sale.sellable_from")
      case .bytes(2): until.read(&reader, "set_sale.sellable_until")
      case .varint(3): isFrozen = reader.bool()
      default: reader.other(tag, known: 1...3)
      }
    }
    reader.leave(submessage, "set_sale")
  }

  /// nil where it was not sent.
  func window() throws(FieldViolation) -> SaleWindow? {
    if !isSet { return nil }
    let from = try instant(from, "set_sale.sellable_from")
    let until = try instant(until, "set_sale.sellable_until")
    if let from, let until, until <= from {
      throw FieldViolation("set_sale.sellable_until", "later than sellable_from")
    }
    return SaleWindow(from: from, until: until, isFrozen: isFrozen)
  }

  private func instant(
    _ field: ProtoDuration, _ name: StaticString
  ) throws(FieldViolation) -> SaleWindow.Instant? {
    if !field.isSet { return nil }
    guard
      let instant = SaleWindow.Instant(
        seconds: field.seconds, nanoseconds: Int64(field.nanos))
    else {
      throw FieldViolation(name, "a Timestamp of the years 1 to 9999, with 0 to 999999999 nanos")
    }
    return instant
  }
}

extension ProtoWriter {
  /// A SaleWindow; nothing for an item that may always be reserved.
  func field(_ number: Int, _ window: SaleWindow) {
    if window.isAlways { return }
    let start = begin(number)
    if let from = window.from { field(1, from) }
    if let until = window.until { field(2, until) }
    field(3, window.isFrozen)
    end(start)
  }

  /// A google.protobuf.Timestamp.
  private func field(_ number: Int, _ instant: SaleWindow.Instant) {
    let start = begin(number)
    field(1, instant.seconds)
    field(2, instant.nanoseconds)
    end(start)
  }
}
