// The orders of one queue, or of one partition of a topic, in their order.
internal import Messaging

/// An order that was delivered and is not accepted yet.
final class OrderInHand {
  let order: Order
  let delivery: BrokerDelivery
  /// The connection that delivered it: the tag is of no use to another.
  let connection: UInt64
  /// Monotonic nanoseconds.
  let takenAt: Int64
  /// How often the server has failed over it.
  var countedTries = 0
  var waits = Backoff()
  /// Not before; monotonic nanoseconds.
  var dueAt: Int64 = .min

  init(_ order: Order, _ delivery: BrokerDelivery, connection: UInt64, takenAt: Int64) {
    self.order = order
    self.delivery = delivery
    self.connection = connection
    self.takenAt = takenAt
  }
}

/// Which orders go into the next batch.
///
/// One batch of a lane is decided at a time, and the server decides the orders of a batch one after the other: so they
/// are decided in the order of the queue. An order that has to wait keeps back those of its SKU that come behind it.
struct Lane {
  private(set) var inFlight: [OrderInHand] = []
  private var waiting: [OrderInHand] = []
  /// Orders in front of `waiting` that were taken.
  private var taken = 0
  /// Of those that wait, some may not be due.
  private var hasDelayed = false
  /// The server has failed over a batch of this lane, over one of its orders: so many at once until it is found.
  private(set) var suspects: Int?

  var isEmpty: Bool { waiting.count == taken && inFlight.isEmpty }

  mutating func add(_ order: OrderInHand) { waiting.append(order) }

  /// The batch that comes next, which is in flight from now on; empty where nothing is due, or one is in flight.
  mutating func take(now: Int64, countMax: Int, bytesMax: Int) -> [OrderInHand] {
    guard inFlight.isEmpty, taken < waiting.count else { return [] }
    let most = min(countMax, suspects ?? countMax)
    inFlight = hasDelayed ? takeDue(now, most, bytesMax) : takeFirst(most, bytesMax)
    return inFlight
  }

  private mutating func takeFirst(_ countMax: Int, _ bytesMax: Int) -> [OrderInHand] {
    var (end, bytes) = (taken, 0)
    while end < waiting.count, end - taken < countMax {
      bytes += waiting[end].order.request.count + Self.headBytes
      if bytes > bytesMax, end > taken { break }
      end += 1
    }
    let batch = Array(waiting[taken..<end])
    taken = end
    if taken == waiting.count || taken > 4096 {
      waiting.removeFirst(taken)
      taken = 0
    }
    return batch
  }

  private mutating func takeDue(
    _ now: Int64, _ countMax: Int, _ bytesMax: Int
  ) -> [OrderInHand] {
    var batch: [OrderInHand] = []
    var left: [OrderInHand] = []
    var held: Set<String> = []
    var bytes = 0
    var isFull = false
    hasDelayed = false
    for order in waiting[taken...] {
      let size = order.order.request.count + Self.headBytes
      isFull = isFull || batch.count == countMax || (bytes + size > bytesMax && !batch.isEmpty)
      let isDelayed = order.dueAt > now
      if isDelayed { hasDelayed = true }
      if isFull || isDelayed || held.contains(order.order.sku) {
        held.insert(order.order.sku)
        left.append(order)
      } else {
        bytes += size
        batch.append(order)
      }
    }
    (waiting, taken) = (left, 0)
    return batch
  }

  /// The batch has ended: those of it that are to be tried again go back to the front.
  mutating func end(again: [OrderInHand]) {
    inFlight = []
    if again.isEmpty { return }
    waiting.replaceSubrange(..<taken, with: again)
    taken = 0
    hasDelayed = hasDelayed || again.contains { $0.dueAt > .min }
  }

  /// The server has failed over one order of the batch, and did not say which: half of it is tried next.
  mutating func suspect() { suspects = max(1, inFlight.count / 2) }

  /// A batch went well.
  mutating func clearSuspects() {
    guard let count = suspects else { return }
    suspects = count >= 4096 ? nil : count * 2
  }

  /// When the first of those that wait may be taken; nil: none has to wait, or a batch is in flight. The first of its SKU
  /// says when those behind it may.
  var nextDue: Int64? {
    guard hasDelayed, inFlight.isEmpty else { return nil }
    var seen: Set<String> = []
    return waiting[taken...].lazy.filter { seen.insert($0.order.sku).inserted }.map(\.dueAt).min()
  }

  /// Nothing that waits is of use any more.
  mutating func forgetWaiting() {
    (waiting, taken, hasDelayed) = ([], 0, false)
  }

  /// Bytes of an order in a batch before its request.
  private static let headBytes = 5
}

extension Array where Element == OrderInHand {
  /// A BatchReserveRequest.
  var request: [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(reduce(0) { $0 + $1.order.request.count + 5 })
    for order in self {
      bytes.append(1 << 3 | 2)
      var length = order.order.request.count
      while length > 0x7f {
        bytes.append(UInt8(truncatingIfNeeded: length) | 0x80)
        length >>= 7
      }
      bytes.append(UInt8(length))
      bytes += order.order.request
    }
    return bytes
  }
}
