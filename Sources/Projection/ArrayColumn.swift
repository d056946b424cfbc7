// A column of many rows as one parameter: an array of PostgreSQL in its binary format (array_recv), for unnest.
internal import PostgresLog

/// What a column holds, by the numbers of pg_type.
enum ColumnType {
  case int8, text, timestamptz, bool

  fileprivate var element: UInt32 {
    switch self {
    case .int8: 20
    case .text: 25
    case .timestamptz: 1184
    case .bool: 16
    }
  }

  fileprivate var array: UInt32 {
    switch self {
    case .int8: 1016
    case .text: 1009
    case .timestamptz: 1185
    case .bool: 1000
    }
  }
}

struct ArrayColumn {
  private let type: ColumnType
  private var count: UInt32 = 0
  private var hasNull = false
  private var elements: [UInt8] = []

  init(_ type: ColumnType) { self.type = type }

  mutating func append(_ number: UInt64) {
    begin(length: 8)
    for shift in stride(from: UInt64(56), through: 0, by: -8) {
      elements.append(UInt8(truncatingIfNeeded: number >> shift))
    }
  }

  mutating func append(_ number: Int64?) {
    guard let number else { return appendNull() }
    append(UInt64(bitPattern: number))
  }

  mutating func append(_ moment: Moment?) { append(moment?.microseconds) }

  mutating func append(_ flag: Bool) {
    begin(length: 1)
    elements.append(flag ? 1 : 0)
  }

  mutating func append(_ text: String?) {
    guard let text else { return appendNull() }
    let utf8 = text.utf8
    guard utf8.contains(0) else {
      begin(length: UInt32(utf8.count))
      elements += utf8
      return
    }
    // A text of PostgreSQL has no place for it: its picture (U+2400) stands there.
    append(String(text.unicodeScalars.map { $0 == "\u{0}" ? "\u{2400}" : Character($0) }))
  }

  /// An empty text is null.
  mutating func append(ifAny text: String) { append(text.isEmpty ? nil : text) }

  private mutating func appendNull() {
    hasNull = true
    begin(length: .max)
  }

  private mutating func begin(length: UInt32) {
    count += 1
    Self.put(length, &elements)
  }

  private static func put(_ number: UInt32, _ bytes: inout [UInt8]) {
    for shift in stride(from: UInt32(24), through: 0, by: -8) {
      bytes.append(UInt8(truncatingIfNeeded: number >> shift))
    }
  }

  var value: PostgresValue {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(20 + elements.count)
    // Dimensions, whether there are nulls, the type; of the one dimension, its length and first index.
    for number in [count > 0 ? 1 : 0, hasNull ? 1 : 0, type.element] { Self.put(number, &bytes) }
    if count > 0 {
      Self.put(count, &bytes)
      Self.put(1, &bytes)
    }
    return .binary(type: type.array, bytes + elements)
  }
}
