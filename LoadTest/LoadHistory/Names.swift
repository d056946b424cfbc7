// What the load generator calls things: methods, stock-keeping codes, idempotency keys.

/// The methods that the load generator calls, in the order of `Method.paths`.
package enum Method: Int, BitwiseCopyable, CaseIterable, Sendable {
  case reserve, confirm, release, extend, getStock, adjustStock, batchGetStock
  case replace, batchReserve, reserveStream

  /// As HTTP/2 names them, by `rawValue`.
  package static let paths = [
    "/holdfast.v1.ReservationService/Reserve", "/holdfast.v1.ReservationService/Confirm",
    "/holdfast.v1.ReservationService/Release", "/holdfast.v1.ReservationService/Extend",
    "/holdfast.v1.StockService/GetStock", "/holdfast.v1.StockService/AdjustStock",
    "/holdfast.v1.StockService/BatchGetStock", "/holdfast.v1.ReservationService/Replace",
    "/holdfast.v1.ReservationService/BatchReserve",
    "/holdfast.v1.ReservationService/ReserveStream",
  ]

  /// Those of them that a run measures by themselves. What BatchReserve and ReserveStream carry are Reserves.
  package static let measured: [Method] = [
    .reserve, .replace, .confirm, .release, .extend, .getStock, .adjustStock,
  ]

  package var name: String {
    switch self {
    case .reserve: "Reserve"
    case .confirm: "Confirm"
    case .release: "Release"
    case .extend: "Extend"
    case .getStock: "GetStock"
    case .adjustStock: "AdjustStock"
    case .batchGetStock: "BatchGetStock"
    case .replace: "Replace"
    case .batchReserve: "BatchReserve"
    case .reserveStream: "ReserveStream"
    }
  }
}

/// The stock-keeping codes of one run: a prefix and seven digits.
package struct SKUNames: Sendable {
  package static let digits = 7
  /// Most SKUs of one run.
  package static let countMaximum = 10_000_000
  let prefix: [UInt8]

  /// - Parameter prefix: printable ASCII, at most 57 bytes.
  package init(prefix: String) { self.prefix = Array(prefix.utf8) }

  /// A prefix that no other run has: runs don't meet.
  package init(run: RunID) { self.init(prefix: "load-\(run.text)-") }

  package func name(_ index: Int) -> String {
    let digits = String(index)
    let zeros = String(repeating: "0", count: max(0, SKUNames.digits - digits.count))
    return String(decoding: prefix, as: UTF8.self) + zeros + digits
  }

  /// Length of every name in bytes.
  package var length: Int { prefix.count + SKUNames.digits }

  /// The number in `name`, or nil if it is not one of ours.
  func index(of name: Span<UInt8>) -> UInt32? {
    guard name.count == length else { return nil }
    for index in 0..<prefix.count where name[index] != prefix[index] { return nil }
    var number: UInt32 = 0
    for index in prefix.count..<name.count {
      guard name[index] >= 0x30, name[index] <= 0x39 else { return nil }
      number = number * 10 + UInt32(name[index] - 0x30)
    }
    return number
  }
}

/// Names one run: 40 bits that no other run is likely to have.
package struct RunID: Sendable, Equatable {
  let bits: UInt64

  package init(_ random: UInt64) { bits = random & 0xff_ffff_ffff }

  /// Ten hexadecimal digits.
  package var text: String {
    let digits = String(bits, radix: 16)
    return String(repeating: "0", count: 10 - digits.count) + digits
  }
}

/// The idempotency keys of one run: ten digits of the run, two of the worker, ten of the operation.
package struct KeyNames: Sendable {
  let run: RunID

  package init(run: RunID) { self.run = run }

  func append(worker: Int, operation: Int, to buffer: inout MessageBuffer) {
    buffer.appendHexadecimal(run.bits, digits: 10)
    buffer.appendHexadecimal(UInt64(truncatingIfNeeded: worker), digits: 2)
    buffer.appendHexadecimal(UInt64(truncatingIfNeeded: operation), digits: 10)
  }

  /// The operation of a worker's key; nil: it is another worker's, or none of this run.
  package func operation(_ key: String, worker: Int) -> Int? {
    guard key.utf8.count == 22 else { return nil }
    guard let operation = Int(key.suffix(10), radix: 16), operation >= 0,
      name(worker: worker, operation: operation) == key
    else { return nil }
    return operation
  }

  package func name(worker: Int, operation: Int) -> String {
    var buffer = MessageBuffer()
    append(worker: worker, operation: operation, to: &buffer)
    return buffer.withSpan { bytes in
      String(decoding: bytes.indices.map { bytes[$0] }, as: UTF8.self)
    }
  }
}

/// The id of a reservation: exactly 20 characters, kept as bytes.
package struct ReservationID: Hashable, Sendable, BitwiseCopyable {
  package static let length = 20
  private let first: UInt64
  private let second: UInt64
  private let third: UInt32

  /// nil unless there are 20 bytes.
  init?(_ text: Span<UInt8>) {
    guard text.count == ReservationID.length else { return nil }
    var words: (UInt64, UInt64, UInt64) = (0, 0, 0)
    for index in 0..<8 { words.0 = words.0 << 8 | UInt64(text[index]) }
    for index in 8..<16 { words.1 = words.1 << 8 | UInt64(text[index]) }
    for index in 16..<20 { words.2 = words.2 << 8 | UInt64(text[index]) }
    first = words.0
    second = words.1
    third = UInt32(words.2)
  }

  /// For tests and for records without an answer.
  package init(number: UInt64) {
    first = 0
    second = number
    third = 0
  }

  /// For fingerprints: all of it, folded.
  var bits: UInt64 { first ^ (second << 23 | second >> 41) ^ UInt64(third) << 16 }

  func append(to buffer: inout MessageBuffer) {
    for index in 0..<8 { buffer.append(UInt8(truncatingIfNeeded: first >> UInt64(56 - 8 * index))) }
    for index in 0..<8 {
      buffer.append(UInt8(truncatingIfNeeded: second >> UInt64(56 - 8 * index)))
    }
    for index in 0..<4 { buffer.append(UInt8(truncatingIfNeeded: third >> UInt32(24 - 8 * index))) }
  }

  /// For people: what a server should not have put there is shown as a question mark.
  package var text: String {
    var buffer = MessageBuffer()
    append(to: &buffer)
    return buffer.withSpan { bytes in
      let printable = bytes.indices.map { (0x20..<0x7f).contains(bytes[$0]) ? bytes[$0] : 0x3f }
      return String(decoding: printable, as: UTF8.self)
    }
  }
}
