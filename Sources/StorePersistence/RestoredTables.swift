// What recovery puts into the tables of a store that nobody uses yet, and the checks on the way: numbers
// that come from a disk may be anything.
internal import Log
internal import Posix
internal import StockStore
internal import Synchronization

enum RecoveryLimits {
  /// Units of anything: 64 lines of the most that a line may have. More is damage.
  static let unitsMax: Int64 = 1 << 48
  /// Chunks are taken one after the other, and each shard has few that nothing is known of: a number
  /// further beyond the number of chunks is damage, and must not cost the memory that it asks for.
  static let chunksAhead = 4 * StoreCore.shardsMax
  /// Later than any clock says (it is the year 2225): so that what is added to a time never overflows.
  static let timeMax = Int64.max - 1 << 60

  /// Whether a time can be one that a store has written.
  @inline(__always)
  static func isPossible(time: Int64) -> Bool { time >= 0 && time <= timeMax }

  /// Whether an item can have so many units requested of it, or on offer: these are below zero where
  /// safety stock was raised over what is left.
  @inline(__always)
  static func isPossible(units: Int64) -> Bool { units >= -unitsMax && units <= unitsMax }
}

extension ReservationRecord {
  /// Whether times, units and balances are such that nothing that is computed of them overflows, and items
  /// are there.
  func hasPossibleNumbers(_ core: StoreCore) -> Bool {
    // Below zero it is an owner.
    guard RecoveryLimits.isPossible(time: createdAt), savedEnd <= RecoveryLimits.timeMax else {
      return false
    }
    if state != nil {
      return RecoveryLimits.isPossible(time: expiresAt)
        && RecoveryLimits.isPossible(time: firstExpiresAt)
    }
    if kind == .adjusted { return core.isPossible(adjusted) }
    guard case .insufficientStock(_, let requested, let available) = refusal else { return true }
    return RecoveryLimits.isPossible(units: requested)
      && RecoveryLimits.isPossible(units: available)
      && (0..<shortageCount).allSatisfy {
        RecoveryLimits.isPossible(units: shortage($0).requested)
          && RecoveryLimits.isPossible(units: shortage($0).available)
      }
  }

  /// Whether the items that a refusal or an adjustment names besides its lines are below `itemCount`.
  func namesItems(below itemCount: UInt32) -> Bool {
    if kind == .adjusted { return adjusted.item.ordinal < itemCount }
    if case .insufficientStock(let item, _, _) = refusal { return item.ordinal < itemCount }
    return true
  }
}

extension StoreCore {
  /// Puts an item that is not there yet in its place: its name and balances, not yet its place in the
  /// index. False where that cannot be.
  func restore(
    _ level: StockLevel, _ name: ItemName, lsn: UInt64
  ) throws(JournalError) -> Bool {
    let ordinal = level.item.ordinal
    guard name.sku.count > 0, level.version > 0, isPossible(level) else { return false }
    guard ordinal < items.capacity else { throw .tooManyItems(limits) }
    guard items[ordinal].word.load(ordering: .relaxed) == 0, items.restore(ordinal, name) else {
      return false
    }
    setLevel(level, lsn: lsn)
    return true
  }

  /// Balances that an item can have.
  @inline(__always)
  func isPossible(_ level: StockLevel) -> Bool {
    level.held >= 0 && level.held <= level.onHand && level.onHand <= RecoveryLimits.unitsMax
      && level.safetyStock >= 0 && level.safetyStock <= RecoveryLimits.unitsMax
      && level.version < UInt64.max >> 1
  }

  /// Gives an item that is there these balances and this version.
  @inline(__always)
  func setLevel(_ level: StockLevel, lsn: UInt64) {
    let ordinal = level.item.ordinal
    items[ordinal].onHand.store(level.onHand, ordering: .relaxed)
    items[ordinal].held.store(level.held, ordering: .relaxed)
    items[ordinal].safetyStock.store(level.safetyStock, ordering: .relaxed)
    items[ordinal].lsn.store(lsn, ordering: .relaxed)
    items[ordinal].word.store(level.version << 1, ordering: .releasing)
  }
}

extension JournalError {
  static func tooManyItems(_ limits: StoreLimits) -> JournalError {
    .unsuitable(
      "the directory has more items than the \(limits.itemsMax) allowed: raise --max-items")
  }

  static func tooManyReservations(_ limits: StoreLimits) -> JournalError {
    .unsuitable(
      "the directory has more reservations than the \(limits.reservationsMax) allowed: "
        + "raise --max-reservations")
  }
}

/// Calls both, where it is worth it at the same time: the second on a thread of its own, if there is one
/// to be had.
func concurrently<First, Second: Sendable>(
  isWorthIt: Bool, _ first: () throws(JournalError) -> First,
  _ second: @escaping @Sendable () throws(JournalError) -> Second
) throws(JournalError) -> (First, Second) {
  let other = Errand(second)
  let hasProcessor = isWorthIt && Machine.usableProcessors > 1
  let thread = hasProcessor ? try? Thread(name: "recovery", other.run) : nil
  let outcome: Result<First, JournalError>
  do { outcome = .success(try first()) } catch { outcome = .failure(error) }
  if let thread { thread.join() } else { other.run() }
  return (try outcome.get(), try other.result())
}

/// A body and what came of it.
private final class Errand<Value: Sendable>: Sendable {
  private let body: @Sendable () throws(JournalError) -> Value
  private let outcome = Mutex<Result<Value, JournalError>?>(nil)

  init(_ body: @escaping @Sendable () throws(JournalError) -> Value) { self.body = body }

  @Sendable func run() {
    let result: Result<Value, JournalError>
    do { result = .success(try body()) } catch { result = .failure(error) }
    outcome.withLock { $0 = result }
  }

  /// What `run`, which has returned, came to.
  func result() throws(JournalError) -> Value {
    guard let result = outcome.withLock({ $0 }) else { preconditionFailure("it has not run") }
    return try result.get()
  }
}
