// What a relay has to know of an Event (proto/holdfast/v1/event.proto): where its fields are, and no more.
internal import Bytes

/// A WatchResponse: where its events are.
@safe struct ResponseOutline {
  /// Where a resume token has the store's name: behind the digit that says its form.
  private static let storeRange = 1..<17

  private(set) var events: [UnsafeRawBufferPointer]
  private(set) var token = ""

  /// nil where it is none.
  /// - Safety: good as long as the bytes are.
  @unsafe init?(_ bytes: UnsafeRawBufferPointer) {
    unsafe events = []
    var fields = unsafe WireFields(bytes)
    while let field = fields.next() {
      if field.number == 1 { unsafe events.append(field.bytes) }
      if field.number == 2 { token = field.text }
    }
    if fields.isMalformed || !Self.isToken(token) { return nil }
  }

  private static func isToken(_ text: String) -> Bool {
    let bytes = text.utf8
    return bytes.count >= storeRange.upperBound && bytes.count <= 512
      && bytes.allSatisfy { 0x21...0x7e ~= $0 }
      && bytes.prefix(storeRange.upperBound).dropFirst(storeRange.lowerBound).allSatisfy {
        48...57 ~= $0 || 97...102 ~= $0
      }
  }

  /// Names the store, since its last repair or restore.
  var store: Substring.UTF8View {
    Substring(token).utf8.prefix(Self.storeRange.upperBound).dropFirst(Self.storeRange.lowerBound)
  }
}

/// The fields of one Event that a message is made of.
@safe struct EventOutline {
  /// An item's balances, or one line of what was asked for.
  @safe struct Touched {
    let sku: UnsafeRawBufferPointer
    /// The field's contents.
    let bytes: UnsafeRawBufferPointer
  }

  let bytes: UnsafeRawBufferPointer
  private(set) var lsn: UInt64 = 0
  private(set) var kind: UInt64 = 0
  /// Nanoseconds since 1970; 0: the event does not say.
  private(set) var decidedAt: Int64 = 0
  private(set) var reservationID: UnsafeRawBufferPointer
  private(set) var reference: UnsafeRawBufferPointer
  private(set) var idempotencyKey: UnsafeRawBufferPointer
  private(set) var stock: [Touched] = []
  private(set) var lines: [Touched] = []

  /// nil where it is no Event.
  /// - Safety: good as long as the bytes are.
  @unsafe init?(_ bytes: UnsafeRawBufferPointer) {
    let none = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<0])
    unsafe (self.bytes, reservationID, reference, idempotencyKey) = (bytes, none, none, none)
    var fields = unsafe WireFields(bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: lsn = field.value
      case 2: kind = field.value
      case 3:
        guard let time = Self.nanoseconds(field) else { return nil }
        decidedAt = time
      case 4: unsafe reservationID = field.bytes
      case 5: unsafe reference = field.bytes
      case 6:
        guard let line = Self.touched(field) else { return nil }
        lines.append(line)
      case 8:
        guard let level = Self.touched(field) else { return nil }
        stock.append(level)
      case 10: unsafe idempotencyKey = field.bytes
      default: break
      }
    }
    // Every decision has a number: it is what consumers know a double by.
    if fields.isMalformed || lsn == 0 { return nil }
  }

  /// A line and a level both have their SKU in field 1.
  private static func touched(_ message: WireFields.Field) -> Touched? {
    var fields = unsafe WireFields(message.bytes)
    var sku = unsafe UnsafeRawBufferPointer(rebasing: message.bytes[..<0])
    while let field = fields.next() {
      if field.number == 1 {
        unsafe sku = field.bytes
        // So is every message of ours ordered, and nothing else of it is asked for.
        break
      }
    }
    if fields.isMalformed { return nil }
    return unsafe Touched(sku: sku, bytes: message.bytes)
  }

  private static func nanoseconds(_ message: WireFields.Field) -> Int64? {
    var fields = unsafe WireFields(message.bytes)
    var (seconds, nanos) = (Int64(0), Int64(0))
    while let field = fields.next() {
      if field.number == 1 { seconds = field.signed }
      if field.number == 2 { nanos = field.signed }
    }
    let (product, overflows) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    guard !fields.isMalformed, !overflows, 0..<1_000_000_000 ~= nanos else { return nil }
    let (sum, isTooLate) = product.addingReportingOverflow(nanos)
    return isTooLate ? nil : sum
  }
}
