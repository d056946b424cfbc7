// What a call was answered when it was not OK: the gRPC code, and the google.rpc.ErrorInfo that
// holdfast puts into the status details (docs/ARCHITECTURE.md, "Errors").

/// Reasons by name, as the server spells them.
package enum RefusalReason: UInt8, BitwiseCopyable, CaseIterable, Sendable {
  case insufficientStock, itemNotFound, reservationNotFound, reservationExpired
  case reservationConfirmed, reservationReleased, idempotencyKeyReused
  case conflictTooBusy, overloaded, shuttingDown, storageFull
  /// The details name a reason that is none of these.
  case other
  /// There are no details, or they don't parse.
  case unnamed
  /// A history's file numbers them in this order: what is new stands behind.
  case revisionMismatch, onHandMismatch, insufficientCommitted, limitExceeded
  case notOwner, leaseOver

  package var name: String {
    switch self {
    case .insufficientStock: "INSUFFICIENT_STOCK"
    case .itemNotFound: "ITEM_NOT_FOUND"
    case .reservationNotFound: "RESERVATION_NOT_FOUND"
    case .reservationExpired: "RESERVATION_EXPIRED"
    case .reservationConfirmed: "RESERVATION_CONFIRMED"
    case .reservationReleased: "RESERVATION_RELEASED"
    case .idempotencyKeyReused: "IDEMPOTENCY_KEY_REUSED"
    case .conflictTooBusy: "CONFLICT_TOO_BUSY"
    case .overloaded: "OVERLOADED"
    case .shuttingDown: "SHUTTING_DOWN"
    case .storageFull: "STORAGE_FULL"
    case .other: "another reason"
    case .unnamed: "no reason given"
    case .revisionMismatch: "REVISION_MISMATCH"
    case .onHandMismatch: "ON_HAND_MISMATCH"
    case .insufficientCommitted: "INSUFFICIENT_COMMITTED"
    case .limitExceeded: "LIMIT_EXCEEDED"
    case .notOwner: "NOT_OWNER"
    case .leaseOver: "LEASE_OVER"
    }
  }

  init(_ text: Span<UInt8>) {
    for reason in RefusalReason.named where text.equals(reason.bytes) {
      self = reason.reason
      return
    }
    self = .other
  }

  private static let named = RefusalReason.allCases.filter { $0 != .other && $0 != .unnamed }
    .map { (reason: $0, bytes: Array($0.name.utf8)) }
}

/// One refusal.
package struct Refusal: Equatable, Sendable {
  package let code: UInt8
  package let reason: RefusalReason
  /// The SKU that the details name; nil if they name none of this run.
  package let sku: UInt32?
  /// The units that the details say are available; nil if they don't.
  package let available: Int64?
  /// The units that the details say a limit's subject has; nil if they don't.
  package let used: Int64?
  /// Equal for equal code, reason and metadata, whatever the order of the metadata.
  package let fingerprint: UInt64
  /// The details say that this is the first answer again. Not part of the fingerprint.
  package let isReplayed: Bool

  package init(
    code: UInt8, reason: RefusalReason, sku: UInt32?, available: Int64? = nil,
    used: Int64? = nil, fingerprint: UInt64 = 0, isReplayed: Bool = false
  ) {
    self.code = code
    self.reason = reason
    self.sku = sku
    self.available = available
    self.used = used
    self.fingerprint = fingerprint
    self.isReplayed = isReplayed
  }

  /// - Parameter details: a google.rpc.Status: code (1), message (2), details (3), each an Any.
  package init(code: UInt8, details: Span<UInt8>, _ names: SKUNames) {
    var parts = Parts()
    var status = MessageReader(0..<details.count)
    while let field = status.next(in: details) {
      guard field.number == 3, field.isBytes else { continue }
      guard let info = Refusal.errorInfo(in: details, any: field.content) else { continue }
      // ErrorInfo: reason (1), domain (2), metadata (3), a map of entries.
      var reader = MessageReader(info)
      while let field = reader.next(in: details) {
        if field.number == 1 { parts.takeReason(details, field.content) }
        if field.number == 3, field.isBytes { parts.takeEntry(details, field.content, names) }
      }
    }
    self.init(code: code, parts)
  }

  /// A refusal that says that another server decides: where that is, or empty where it does not say. nil of
  /// any other refusal.
  /// - Parameter details: a google.rpc.Status.
  package static func owner(details: Span<UInt8>) -> String? {
    var isNotOwner = false
    var owner = ""
    var status = MessageReader(0..<details.count)
    while let field = status.next(in: details) {
      guard field.number == 3, field.isBytes,
        let info = errorInfo(in: details, any: field.content)
      else { continue }
      var reader = MessageReader(info)
      while let field = reader.next(in: details) {
        if field.number == 1 {
          isNotOwner = RefusalReason(details.extracting(field.content)) == .notOwner
        }
        guard field.number == 3, field.isBytes else { continue }
        let entry = entry(in: details, field.content)
        guard details.extracting(entry.key).equals(ownerKey) else { continue }
        owner = String(decoding: entry.value.map { details[$0] }, as: UTF8.self)
      }
    }
    return isNotOwner ? owner : nil
  }

  /// Reads a Failure of a batch: code (1), reason (2), message (3), metadata (4). It says what the details of
  /// a call that stands alone say, and is equal to it. nil if it is malformed or says OK.
  init?(failure: Range<Int>, in bytes: Span<UInt8>, _ names: SKUNames) {
    var code: UInt8 = 0
    var parts = Parts()
    var reader = MessageReader(failure)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 1: code = UInt8(truncatingIfNeeded: field.varint)
      case 2: parts.takeReason(bytes, field.content)
      case 4 where field.isBytes: parts.takeEntry(bytes, field.content, names)
      default: break
      }
    }
    guard !reader.isMalformed, code != 0 else { return nil }
    self.init(code: code, parts)
  }

  /// Reads OrderRejected: reason (2), details (4), a map of what ErrorInfo has as metadata. The code is the one that a
  /// Reserve is refused with for that reason. nil if it is malformed.
  init?(order bytes: Span<UInt8>, _ names: SKUNames) {
    var parts = Parts()
    var reader = MessageReader(0..<bytes.count)
    while let field = reader.next(in: bytes) {
      switch field.number {
      case 2: parts.takeReason(bytes, field.content)
      case 4 where field.isBytes: parts.takeEntry(bytes, field.content, names)
      default: break
      }
    }
    guard !reader.isMalformed, parts.reason != .unnamed else { return nil }
    self.init(code: parts.reason == .itemNotFound ? 5 : 9, parts)
  }

  /// What is known of a refusal while it is read.
  private struct Parts {
    var reason = RefusalReason.unnamed
    var sku: UInt32?
    var available: Int64?
    var used: Int64?
    var fingerprint: UInt64 = 0
    var isReplayed = false

    mutating func takeReason(_ bytes: Span<UInt8>, _ range: Range<Int>) {
      reason = RefusalReason(bytes.extracting(range))
      fingerprint &+= hash(bytes.extracting(range))
    }

    /// An entry of the metadata.
    mutating func takeEntry(_ bytes: Span<UInt8>, _ range: Range<Int>, _ names: SKUNames) {
      let entry = Refusal.entry(in: bytes, range)
      let key = bytes.extracting(entry.key)
      let value = bytes.extracting(entry.value)
      if key.equals(skuKey) { sku = names.index(of: value) }
      if key.equals(availableKey) { available = Refusal.number(value) }
      if key.equals(usedKey) { used = Refusal.number(value) }
      if key.equals(replayedKey) {
        isReplayed = value.equals(trueValue)
      } else {
        fingerprint &+= hash(bytes.extracting(range))
      }
    }
  }

  private init(code: UInt8, _ parts: Parts) {
    self.init(
      code: code, reason: parts.reason, sku: parts.sku, available: parts.available,
      used: parts.used, fingerprint: UInt64(code) &+ parts.fingerprint, isReplayed: parts.isReplayed
    )
  }

  /// google.protobuf.Any: type_url (1), value (2). The range of the value if it is an ErrorInfo.
  private static func errorInfo(in bytes: Span<UInt8>, any: Range<Int>) -> Range<Int>? {
    var isErrorInfo = false
    var value: Range<Int>?
    var reader = MessageReader(any)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { isErrorInfo = bytes.extracting(field.content).equals(errorInfoType) }
      if field.number == 2 { value = field.content }
    }
    return isErrorInfo ? value : nil
  }

  /// Decimal digits, as many as 2^40 has. nil for anything else: below zero nothing is available.
  private static func number(_ text: Span<UInt8>) -> Int64? {
    guard (1...13).contains(text.count) else { return nil }
    var number: Int64 = 0
    for index in text.indices {
      guard text[index] >= 0x30, text[index] <= 0x39 else { return nil }
      number = number * 10 + Int64(text[index] - 0x30)
    }
    return number
  }

  /// A map entry: key (1), value (2).
  private static func entry(in bytes: Span<UInt8>, _ range: Range<Int>)
    -> (key: Range<Int>, value: Range<Int>)
  {
    var key = 0..<0
    var value = 0..<0
    var reader = MessageReader(range)
    while let field = reader.next(in: bytes) {
      if field.number == 1 { key = field.content }
      if field.number == 2 { value = field.content }
    }
    return (key, value)
  }
}

private let errorInfoType = Array("type.googleapis.com/google.rpc.ErrorInfo".utf8)
private let skuKey = Array("sku".utf8)
private let availableKey = Array("available".utf8)
private let usedKey = Array("used".utf8)
private let ownerKey = Array("owner".utf8)
private let replayedKey = Array("replayed".utf8)
private let trueValue = Array("true".utf8)

/// FNV-1a.
private func hash(_ bytes: Span<UInt8>) -> UInt64 {
  var hash: UInt64 = 0xcbf2_9ce4_8422_2325
  for index in bytes.indices { hash = (hash ^ UInt64(bytes[index])) &* 0x100_0000_01b3 }
  return hash
}

extension Span where Element == UInt8 {
  func equals(_ bytes: [UInt8]) -> Bool {
    guard count == bytes.count else { return false }
    for index in 0..<count where self[index] != bytes[index] { return false }
    return true
  }
}
