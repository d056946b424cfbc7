// Resume tokens: a point of the log, the store it is of, and a keyed hash of both. A token that is made up is
// no token; one of another store, or of this one before a repair, is foreign.
internal import Bytes
package import Log
package import StockStore

/// The text form: a digit that says which form, and four numbers in 16 hexadecimal digits each.
package struct ResumeToken: Sendable {
  package enum Reading: Equatable {
    case point(LogPoint)
    case foreign
    case malformed
  }

  package static let textLength = 1 + 4 * digits
  private static let digits = 16
  private static let form = UInt8(ascii: "1")

  private let keys: StoreKeys
  /// Of the store since its last repair or restore.
  private let store: UInt64

  package init(store: StockStore) {
    let core = store.core
    self.init(
      keys: core.keys, firstVersion: core.fault == .watchAfterRepair ? 1 : core.firstVersion)
  }

  init(keys: StoreKeys, firstVersion: UInt64) {
    self.keys = keys
    store = keys.history(firstVersion: firstVersion)
  }

  /// - Parameter text: of `textLength` bytes.
  package func write(_ point: LogPoint, to text: inout MutableSpan<UInt8>) {
    text[0] = Self.form
    var index = 1
    for number in [store, point.lsn, point.mark, tag(point)] {
      for shift in stride(from: 60, through: 0, by: -4) {
        let digit = UInt8(truncatingIfNeeded: number >> UInt64(shift) & 15)
        text[index] = digit < 10 ? 48 + digit : 87 + digit
        index += 1
      }
    }
  }

  package func read(_ text: Span<UInt8>) -> Reading {
    guard text.count == Self.textLength, text[0] == Self.form,
      let store = Self.number(text, 0), let lsn = Self.number(text, 1),
      let mark = Self.number(text, 2), let tag = Self.number(text, 3)
    else { return .malformed }
    if store != self.store { return .foreign }
    let point = LogPoint(lsn: lsn, mark: mark)
    return tag == self.tag(point) ? .point(point) : .malformed
  }

  private func tag(_ point: LogPoint) -> UInt64 {
    var hasher = keys.watchHasher()
    hasher.absorb(2)
    hasher.absorb(store)
    hasher.absorb(point.lsn)
    return hasher.finish(point.mark)
  }

  private static func number(_ text: Span<UInt8>, _ index: Int) -> UInt64? {
    var value: UInt64 = 0
    let start = 1 + index * digits
    for place in start..<start + digits {
      switch text[place] {
      case 48...57: value = value << 4 | UInt64(text[place] - 48)
      case 97...102: value = value << 4 | UInt64(text[place] - 87)
      default: return nil
      }
    }
    return value
  }
}
