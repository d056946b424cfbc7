import Posix
import WireTesting

/// What the fake server tells of its decisions, and how it is wrong.
struct FakeFeed {
  enum Fault: String, CaseIterable, Sendable {
    case none
    /// One event in the middle of the run is not told.
    case drops
    /// It is told twice, under one number or under two.
    case repeats, repeatsUnderAnotherNumber
    /// It comes before the one that was decided before it.
    case swaps
    /// It has one unit too many on hand, in all that it says.
    case misstates
    /// It has a version too many.
    case skipsVersion
    /// A release is told as an expiry, a confirm as a release.
    case mistakesKind
    /// One more is told, under a key of the run that no call had.
    case invents
    /// From the middle of the run on nothing is told.
    case standsStill
    /// It is no protobuf.
    case garbles
    /// The connection is cut, and the token taken.
    case breaksOff
    /// The connection is cut, and the token not taken any more.
    case forgetsTokens
  }

  /// About the middle of the tests' runs.
  static let faultyEvent = 100

  let fault: Fault
  /// Messages of holdfast.v1.Event.
  private(set) var events: [[UInt8]] = []
  /// The fault was made.
  private(set) var isDone = false
  private var lsn: UInt64 = 0

  init(_ fault: Fault) { self.fault = fault }

  /// - Parameters:
  ///   - stock: what was changed, as it is then.
  mutating func tell(
    _ kind: UInt64, id: String = "", key: String = "", lines: [(sku: String, units: Int64)] = [],
    stock: [(sku: String, item: FakeStore.Item)] = [], expires: [UInt8] = [], reason: String = ""
  ) {
    var kind = kind
    var stock = stock
    var isDue = events.count >= Self.faultyEvent && !isDone && !stock.isEmpty
    if fault == .mistakesKind { isDue = isDue && (kind == 4 || kind == 5) }
    // What a restock says wrongly shows in its own change, not in the balance.
    if fault == .misstates { isDue = isDue && kind != 7 }
    if fault == .none || fault == .breaksOff || fault == .forgetsTokens { isDue = false }
    if fault == .standsStill, isDone { return }
    isDone = isDone || isDue
    lsn += 40
    if isDue {
      switch fault {
      case .drops, .standsStill: return
      case .misstates: stock[0].item.onHand += 1
      case .skipsVersion: stock[0].item.version += 1
      case .mistakesKind: kind = kind == 4 ? 5 : 6
      default: break
      }
    }
    let event = Self.event(kind, id, key, lines, stock, expires, reason)
    events.append(Fields.varint(1, lsn) + event)
    guard isDue else { return }
    switch fault {
    case .repeats: events.append(Fields.varint(1, lsn) + event)
    case .repeatsUnderAnotherNumber:
      lsn += 8
      events.append(Fields.varint(1, lsn) + event)
    case .swaps: events.swapAt(events.count - 1, events.count - 2)
    case .invents:
      lsn += 8
      events.append(
        Fields.varint(1, lsn) + Self.event(8, "", "000000002a000000ffffff", lines, [], [], reason))
    case .garbles: events.append([0x0f])
    default: break
    }
  }

  private static func event(
    _ kind: UInt64, _ id: String, _ key: String, _ lines: [(sku: String, units: Int64)],
    _ stock: [(sku: String, item: FakeStore.Item)], _ expires: [UInt8], _ reason: String
  ) -> [UInt8] {
    var event = Fields.varint(2, kind) + Fields.bytes(3, FakeStore.timestamp(now()))
    if !id.isEmpty { event += Fields.bytes(4, Array(id.utf8)) }
    for line in lines {
      event += Fields.bytes(
        6, Fields.bytes(1, Array(line.sku.utf8)) + Fields.varint(3, UInt64(line.units)))
    }
    if !expires.isEmpty { event += Fields.bytes(7, expires) }
    for (sku, item) in stock {
      event += Fields.bytes(
        8,
        Fields.bytes(1, Array(sku.utf8)) + Fields.varint(3, UInt64(item.onHand))
          + Fields.varint(4, UInt64(item.held))
          + Fields.varint(5, UInt64(bitPattern: item.safetyStock))
          + Fields.varint(
            6,
            UInt64(bitPattern: item.onHand - item.held - item.committed - item.safetyStock))
          + Fields.varint(7, item.version) + Fields.varint(8, UInt64(bitPattern: item.committed)))
    }
    if !key.isEmpty { event += Fields.bytes(10, Array(key.utf8)) }
    if !reason.isEmpty { event += Fields.bytes(11, Array(reason.utf8)) }
    return event
  }

  private static func now() -> Int64 { SystemClock.monotonicNanoseconds() }

  // MARK: Streams

  /// Where a Watch begins; nil where its token is none.
  func start(_ request: Fields) -> Int? {
    let token = request.text(1)
    if token.isEmpty { return request.number(2) == 1 ? 0 : events.count }
    return fault == .forgetsTokens ? nil : Int(token)
  }

  /// The frames of some of the events from `next` on, which moves.
  func message(_ stream: UInt32, from next: inout Int) -> [UInt8] {
    let some = events[min(next, events.count)..<min(next + 20, events.count)]
    next = max(next, min(next + 20, events.count))
    let message =
      some.flatMap { Fields.bytes(1, $0) } + Fields.bytes(2, Array(String(next).utf8))
    return Frames.frame(0, 0, stream, Frames.body(message))
  }
}
