internal import LoadHistory

/// How Reserves go out.
package enum ReserveAPI: String, CaseIterable, Sendable {
  /// Each is a call of its own.
  case unary
  /// Many in a message: BatchReserve.
  case batch
  /// Many in a message, the messages in one call for each connection: ReserveStream.
  case stream

  /// The method that carries messages of many.
  var method: Method? {
    switch self {
    case .unary: nil
    case .batch: .batchReserve
    case .stream: .reserveStream
    }
  }
}

/// What a run asks for: which SKUs, how many units, what becomes of the holds, what goes wrong.
///
/// Shares are 0 to 1; ranges are drawn from uniformly. Every field has a flag and a key of
/// `--workload FILE`: see WorkloadField, which also knows the allowed ranges.
package struct Workload: Equatable, Sendable {
  /// The scenario that it began from, or "custom".
  package var scenario = "custom"

  // MARK: How Reserves go out

  package var api = ReserveAPI.unary
  /// Reserves of a message, at most, where they do not go out one by one.
  package var batch = 100

  // MARK: Stock

  package var skuCount = 1
  /// Units put behind every SKU, and behind SKU 0 where that differs.
  package var units: Int64 = 1_000_000
  package var hotUnits: Int64?

  // MARK: Carts

  package var distribution = Distribution.uniform
  /// Share of lines for SKU 0, whatever the distribution says.
  package var hotShare = 0.0
  /// Lines of a cart.
  package var lines = 1...1
  /// Units of a line.
  package var quantity = 1...1

  // MARK: Choice

  /// SKUs that are one product in as many warehouses: a Reserve asks for one, and names the others as alternatives.
  package var warehouses = 1
  /// Share of carts of which less will do: of each line half, rounded up.
  package var partialShare = 0.0

  // MARK: Limits

  /// At most so many units of each SKU for one subject, held and bought; 0: there are no limits.
  package var maxUnits = 0
  /// Subjects, drawn evenly, where there is a limit.
  package var subjectCount = 1_000

  // MARK: Holds and their ends

  package var timeToLiveNanoseconds: ClosedRange<Int64> = 600_000_000_000...600_000_000_000
  /// Where set: the time to live of every hold is chosen so that it is due this long after the start
  /// of the run, but never below 1 s; `timeToLiveNanoseconds` does not count then.
  package var dueTogetherNanoseconds: Int64?
  /// Share of accepted reservations that are confirmed, and that are released. The rest is
  /// abandoned, and expires.
  package var confirmShare = 0.6
  package var releaseShare = 0.3
  /// Share of accepted reservations that are extended before they end as drawn.
  package var extendShare = 0.0
  /// Share of accepted reservations whose lines are replaced before they end as drawn, and how long after.
  package var replaceShare = 0.0
  package var changeTimeNanoseconds: ClosedRange<Int64> = 0...0
  /// From the answer to Reserve until the reservation is ended: how long the customer pays.
  package var payTimeNanoseconds: ClosedRange<Int64> = 0...0
  /// Closed loop: how long a stream pauses before it opens its next operation.
  package var thinkTimeNanoseconds: ClosedRange<Int64> = 0...0

  // MARK: Stock as it is on the shelf

  /// So many units may be held beyond what is on hand.
  package var overcommit: Int64 = 0
  /// Confirmed units stay on hand, as committed.
  package var keepsCommitted = false
  /// Of confirmed and kept reservations: shares that are shipped and that are unsold, and how long after.
  package var shipShare = 1.0
  package var uncommitShare = 0.0
  package var shipTimeNanoseconds: ClosedRange<Int64> = 0...0
  /// Share of opened operations that count one SKU, and how many units they find missing.
  package var countShare = 0.0
  package var countMissing = 0...0

  // MARK: Retries and cuts

  /// Share of calls that are sent more than once, byte for byte, and how often in all.
  package var duplicateShare = 0.01
  package var copies = 2...2
  /// Share of sends whose stream is reset right after them.
  package var cutShare = 0.0
  /// Share of sends after which their connection is closed, with calls in flight, and dialled again.
  package var closeShare = 0.0
  /// A call of unknown outcome is sent again, on another connection, until a decision is known.
  package var retriesUnknown = false

  // MARK: Other calls

  /// Share of opened operations that read one SKU.
  package var readShare = 0.0
  /// Share of opened operations that put more units behind one SKU, and how many.
  package var restockShare = 0.0
  package var restockUnits = 1...100

  // MARK: A catalogue

  /// In the place of `units`, and where it has weights of `distribution`; `skuCount` is its number of items.
  package var catalogue: Catalogue? {
    didSet { if let catalogue { skuCount = catalogue.onHand.count } }
  }

  package init() {}

  /// Units behind each SKU.
  package var stock: [Int64] {
    if let catalogue { return catalogue.onHand }
    var stock = [Int64](repeating: units, count: skuCount)
    if let hotUnits, skuCount > 0 { stock[0] = hotUnits }
    return stock
  }
}
