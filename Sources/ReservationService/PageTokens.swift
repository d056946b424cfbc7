// Page tokens: the position where the page ended, and a keyed hash of it, of the list, and of its
// filter. A token that is made up, of another list or filter, or of another server, is no token: it
// must not pass for one whose pages have come to an end.
internal import Bytes
internal import StockStore

/// Which list a page token continues.
struct PageList {
  fileprivate let number: UInt8
  fileprivate let filter: UInt8
  fileprivate var reference = BorrowedBytes.empty

  static var stock: PageList { PageList(number: 1, filter: 0) }

  /// - Parameters:
  ///   - state: nil for all.
  ///   - reference: empty for all.
  static func reservations(
    _ state: ReservationState?, reference: BorrowedBytes
  ) -> PageList {
    PageList(number: 2, filter: state?.rawValue ?? 0, reference: reference)
  }
}

/// The text form: two numbers in 16 hexadecimal digits each.
enum PageToken {
  private static let digits = 16

  /// The position that a token names; 0, the start, for an empty one.
  static func position(
    _ token: BorrowedBytes, of list: PageList, _ session: StoreSession
  ) throws(FieldViolation) -> UInt64 {
    if token.count == 0 { return 0 }
    guard token.count == 2 * digits, let position = number(token, at: 0),
      number(token, at: digits) == tag(position, list, session)
    else {
      throw FieldViolation(
        "page_token", "empty, or the next_page_token of this method's page before, same filter")
    }
    return position
  }

  static func write(
    _ number: Int, _ position: UInt64, of list: PageList, _ session: StoreSession,
    to writer: ProtoWriter
  ) {
    writer.nested(number) {
      for part in [position, tag(position, list, session)] {
        for shift in stride(from: 60, through: 0, by: -4) {
          let digit = UInt8(truncatingIfNeeded: part >> UInt64(shift) & 15)
          writer.text(byte: digit < 10 ? 48 + digit : 87 + digit)
        }
      }
    }
  }

  private static func tag(
    _ position: UInt64, _ list: PageList, _ session: StoreSession
  ) -> UInt64 {
    session.pageTag(
      list: list.number, filter: list.filter, reference: list.reference, position: position)
  }

  private static func number(_ token: BorrowedBytes, at start: Int) -> UInt64? {
    var value: UInt64 = 0
    let text = unsafe token.pointer
    for index in start..<start + digits {
      let byte = unsafe text[index]
      switch byte {
      case 48...57: value = value << 4 | UInt64(byte - 48)
      case 97...102: value = value << 4 | UInt64(byte - 87)
      default: return nil
      }
    }
    return value
  }
}
