// What every field of a request must be. A rule that is broken is named in a google.rpc.BadRequest.
internal import StockStore

/// The service's limits that are not the store's. The values and the reasons for them stand in the
/// executable's Limits.swift.
package struct ServiceLimits: Sendable {
  /// Longest idempotency key, SKU, location and reason, in bytes.
  package var keyBytesMax: Int
  package var skuBytesMax: Int
  package var locationBytesMax: Int
  package var reasonBytesMax: Int
  /// Longest holdfast-caller: it is hashed with every key.
  package var callerBytesMax: Int
  /// Items of one BatchGetStock, and entries of one page.
  package var batchMax: Int
  package var pageSizeDefault: Int
  /// Reserves of one message of BatchReserve or ReserveStream.
  package var reservesPerMessageMax: Int
  /// Refused rows that the answer to an ImportStock names.
  package var importFailuresMax = 1_000

  package init(
    keyBytesMax: Int, skuBytesMax: Int, locationBytesMax: Int, reasonBytesMax: Int,
    callerBytesMax: Int, batchMax: Int, pageSizeDefault: Int, reservesPerMessageMax: Int = 8192
  ) {
    self.keyBytesMax = keyBytesMax
    self.skuBytesMax = skuBytesMax
    self.locationBytesMax = locationBytesMax
    self.reasonBytesMax = reasonBytesMax
    self.callerBytesMax = callerBytesMax
    self.batchMax = batchMax
    self.pageSizeDefault = pageSizeDefault
    self.reservesPerMessageMax = reservesPerMessageMax
  }
}

/// A field that breaks its rule. Names are as in the .proto files.
struct FieldViolation: Error {
  /// The field, or the list that it is in.
  let field: StaticString
  /// The entry of the list and the field in it.
  var index: Int?
  var member: StaticString = ""
  /// In an alternative; of one of its lines, which alternative it is, else below 0.
  var isOfAlternative = false
  var outerIndex = -1
  let rule: StaticString

  init(_ field: StaticString, _ rule: StaticString) {
    self.field = field
    self.rule = rule
  }

  /// The same violation in entry `index` of `list`.
  func inside(_ list: StaticString, at index: Int) -> FieldViolation {
    var violation = FieldViolation(list, rule)
    violation.index = index
    violation.member = field
    return violation
  }
}

/// The rules.
struct FieldRules {
  let store: StoreLimits
  let service: ServiceLimits

  func key(_ bytes: BorrowedBytes) throws(FieldViolation) -> BorrowedBytes {
    guard bytes.count >= 1, bytes.count <= service.keyBytesMax, Self.isUTF8(bytes) else {
      throw FieldViolation("idempotency_key", "1 to 64 bytes of valid UTF-8")
    }
    return bytes
  }

  func reason(_ bytes: BorrowedBytes) throws(FieldViolation) -> BorrowedBytes {
    guard bytes.count >= 1, bytes.count <= service.reasonBytesMax, Self.isUTF8(bytes) else {
      throw FieldViolation("reason", "1 to 256 bytes of valid UTF-8")
    }
    return bytes
  }

  func item(sku: BorrowedBytes, location: BorrowedBytes) throws(FieldViolation) -> ItemName {
    guard sku.count >= 1, sku.count <= service.skuBytesMax, Self.isCode(sku) else {
      throw FieldViolation("sku", "1 to 64 bytes of printable ASCII without spaces")
    }
    guard location.count <= service.locationBytesMax, Self.isCode(location) else {
      throw FieldViolation("location", "0 to 64 bytes of printable ASCII without spaces")
    }
    return ItemName(sku: sku, location: location)
  }

  func importID(_ bytes: BorrowedBytes) throws(FieldViolation) -> BorrowedBytes {
    guard bytes.count >= 1, bytes.count <= service.keyBytesMax, Self.isCode(bytes) else {
      throw FieldViolation("import_id", "1 to 64 bytes of printable ASCII without spaces")
    }
    return bytes
  }

  func reference(
    _ bytes: BorrowedBytes, _ field: StaticString = "reference"
  ) throws(FieldViolation) -> BorrowedBytes {
    guard bytes.count <= StoreLimits.referenceBytesMax, Self.isCode(bytes) else {
      throw FieldViolation(field, "0 to 64 bytes of printable ASCII without spaces")
    }
    return bytes
  }

  /// The caller's name comes as metadata, so its rule is broken by a header, not a field.
  func caller(_ bytes: BorrowedBytes) throws(FieldViolation) -> BorrowedBytes {
    guard bytes.count <= service.callerBytesMax, Self.isCode(bytes) else {
      throw FieldViolation("holdfast-caller", Self.callerRule)
    }
    return bytes
  }

  static let callerRule: StaticString = "0 to 64 bytes of printable ASCII without spaces"

  func limit(
    _ subject: BorrowedBytes, _ maxUnits: Int64
  ) throws(FieldViolation) -> SubjectLimit {
    guard 1...SubjectLimit.bytesMax ~= subject.count, Self.isCode(subject) else {
      throw FieldViolation("subject", "1 to 64 bytes of printable ASCII without spaces")
    }
    guard 1...SubjectLimit.unitsMax ~= maxUnits else {
      throw FieldViolation("max_units", "1 to 1099511627776 units")
    }
    return SubjectLimit(subject: subject, maxUnits: maxUnits)
  }

  func quantity(_ value: Int64) throws(FieldViolation) -> Int64 {
    guard value >= 1, value <= store.quantityMax else {
      throw FieldViolation("quantity", "1 to 1099511627776 units")
    }
    return value
  }

  /// Of a line of `quantity` units: how few would do.
  func minimum(_ value: Int64, of quantity: Int64) throws(FieldViolation) -> Int64 {
    guard value >= 1, value <= quantity else {
      throw FieldViolation("min_quantity", "1 to quantity, or 0 for all of it")
    }
    return value
  }

  /// Longer than any max_hold, which is a year at most.
  private static let ttlSecondsMax: Int64 = 366 * 24 * 3600

  static var timeToLiveViolation: FieldViolation {
    FieldViolation("ttl", "1 s to the server's max_hold, with 0 to 999999999 nanos")
  }

  /// A time to live in nanoseconds. The store refuses one above max_hold, unless its key is known.
  func timeToLive(seconds: Int64, nanos: Int32) throws(FieldViolation) -> Int64 {
    guard nanos >= 0, nanos <= 999_999_999, seconds >= 0, seconds <= Self.ttlSecondsMax
    else { throw Self.timeToLiveViolation }
    let nanoseconds = seconds * 1_000_000_000 + Int64(nanos)
    guard nanoseconds >= store.ttlNanosecondsMin else { throw Self.timeToLiveViolation }
    return nanoseconds
  }

  func reservationID(_ bytes: BorrowedBytes) throws(FieldViolation) -> ReservationID {
    let text = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    guard let id = unsafe ReservationID(text: text.span) else {
      throw FieldViolation("reservation_id", "the 20 characters that Reserve answered")
    }
    return id
  }

  /// More than the most is taken as the most (AIP-158): clients written against another server ask so.
  func pageSize(_ size: Int32) throws(FieldViolation) -> Int {
    guard size >= 0 else {
      throw FieldViolation("page_size", "0 or more: 0 for 100, at most 500 are given")
    }
    return size == 0 ? service.pageSizeDefault : min(Int(size), service.batchMax)
  }

  /// Printable ASCII without spaces: 0x21 to 0x7e.
  private static func isCode(_ bytes: BorrowedBytes) -> Bool {
    allWords(bytes) { word in
      // No sum goes beyond its byte where all are below 0x80.
      word & ByteLanes.high == 0 && (word &+ ByteLanes.ones) & ByteLanes.high == 0
        && (word &+ ByteLanes.ones &* 0x5f) & ByteLanes.high == ByteLanes.high
    }
  }

  private static func isUTF8(_ bytes: BorrowedBytes) -> Bool {
    let isASCII = allWords(bytes) { $0 & ByteLanes.high == 0 }
    // Validation of the rest allocates, and is rare.
    return isASCII || (unsafe String(validating: bytes.pointer, as: UTF8.self)) != nil
  }

  private enum ByteLanes {
    static var ones: UInt64 { 0x0101_0101_0101_0101 }
    static var high: UInt64 { 0x8080_8080_8080_8080 }
  }

  /// Whether `holds` says so of all bytes, eight at a time, some of them more than once: the last eight overlap
  /// those before, and bytes that stand alone are repeated.
  @inline(__always)
  private static func allWords(_ bytes: BorrowedBytes, _ holds: (UInt64) -> Bool) -> Bool {
    let text = unsafe bytes.pointer
    let count = text.count
    guard let base = text.baseAddress else { return true }
    // All loads lie within [base, base + count).
    if count < 8 {
      for index in 0..<count {
        let byte = unsafe base.load(fromByteOffset: index, as: UInt8.self)
        if !holds(UInt64(byte) &* ByteLanes.ones) { return false }
      }
      return true
    }
    var offset = 0
    while offset + 8 < count {
      if !holds(unsafe base.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) { return false }
      offset += 8
    }
    return holds(unsafe base.loadUnaligned(fromByteOffset: count - 8, as: UInt64.self))
  }
}
