// What the tables make of a server's messages, which Client reads: times as PostgreSQL counts them, lines as jsonb.
internal import Client

/// A point in time as PostgreSQL counts it: microseconds since the year 2000.
struct Moment: Equatable, Comparable {
  static let unixMicroseconds: Int64 = 946_684_800_000_000

  let microseconds: Int64

  init(microseconds: Int64) { self.microseconds = microseconds }

  init(unixNanoseconds: Int64) {
    microseconds = unixNanoseconds / 1000 - Self.unixMicroseconds
  }

  init(_ instant: Instant) {
    microseconds = instant.seconds * 1_000_000 + Int64(instant.nanos / 1000) - Self.unixMicroseconds
  }

  var unixNanoseconds: Int64 { (microseconds + Self.unixMicroseconds) &* 1000 }

  static func < (a: Moment, b: Moment) -> Bool { a.microseconds < b.microseconds }
}

extension Event {
  /// Every event says it.
  var decidedMoment: Moment { decidedAt.map(Moment.init) ?? Moment(microseconds: 0) }
}

extension ReservationLine {
  /// For a column of jsonb.
  static func json(_ lines: [ReservationLine]) -> String {
    var text = "["
    for line in lines {
      if text.utf8.count > 1 { text += "," }
      text += "{\"sku\":\(quoted(line.item.sku)),\"location\":\(quoted(line.item.location))"
      text += ",\"quantity\":\(line.quantity)}"
    }
    return text + "]"
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\" + String(scalar)
      case "\u{0}"..<" ":
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}

extension WatchMessage {
  /// A heartbeat every second, so that the position goes on where nothing happens.
  static func request(from start: WatchStart) -> [UInt8] {
    Requests.watch(
      start, kinds: [], items: [], referencePrefix: "", heartbeatNanoseconds: 1_000_000_000)
  }
}

extension StockMethod {
  private static let pageSize = 500

  /// - Parameter token: where the page before has ended; empty: the first one.
  func request(page token: String) -> [UInt8] {
    switch self {
    case .listStock: Requests.listStock(pageSize: Self.pageSize, token: token)
    case .listReservations:
      Requests.listReservations(
        pageSize: Self.pageSize, token: token, state: .unspecified, reference: "")
    }
  }
}
