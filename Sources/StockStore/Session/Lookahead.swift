// Looking ahead: a loop has many calls in hand before it executes the first of them. What the next ones
// will look up by hash lies anywhere in memory, and comes while those before them are executed.
internal import CPlatform
internal import Log

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

extension StoreSession {
  /// A reserve under this key comes soon in this turn. A hint: it changes nothing.
  package func expectReserve(_ scope: IdempotencyScope) { expect(.reserve, scope) }

  /// An adjustment under this key comes soon in this turn. A hint: it changes nothing.
  package func expectAdjust(_ scope: IdempotencyScope) { expect(.adjust, scope) }

  /// A replace under this key, of this reservation, comes soon in this turn. A hint: any id is allowed.
  package func expectReplace(_ scope: IdempotencyScope, _ id: ReservationID) {
    expect(id)
    expect(.replace, scope)
  }

  /// A command for this reservation comes soon. A hint: any id is allowed.
  package func expect(_ id: ReservationID) { core.slab.records.prefetch(id.slot) }

  private func expect(_ method: StoreKeys.Method, _ scope: IdempotencyScope) {
    let identity = core.keys.identity(method, scope)
    let number = core.shardNumber(identity)
    core.shards[number].prefetchUnlocked(identity)
    scratch.expected.append(method, scope, identity)
  }

  /// Names the decision: from `expect`, or computed now.
  @inline(__always)
  func identity(_ method: StoreKeys.Method, _ scope: IdempotencyScope) -> Identity {
    if scratch.preparedInUse >= 0, method == .reserve, let identity = preparedIdentity(scope) {
      return identity
    }
    return scratch.expected.take(method, scope) ?? core.keys.identity(method, scope)
  }

  // MARK: Reserves of a batch, which lie in memory side by side

  /// Reserves that can be prepared at the same time.
  package static let preparedMax = 16

  /// A reserve under this key, and of this item first, comes soon in this turn, and is known by `place`, from 0
  /// to preparedMax - 1: key and item are hashed once. A hint, but for what the two point to: that must not
  /// change until `usePrepared` names another place.
  /// - Parameter whole: all that the reserve asks for, of the one item: for `reservePrepared`.
  package func prepareReserve(
    _ place: Int, _ scope: IdempotencyScope, _ item: ItemName, whole: WholeReserve? = nil
  ) {
    let identity = core.keys.identity(.reserve, scope)
    core.shards[core.shardNumber(identity)].prefetchUnlocked(identity)
    let hash = core.keys.itemHash(item)
    core.index.prefetch(hash)
    core.log.prefetchAhead()
    scratch.prepared[place] = PreparedReserve(
      scope: scope, identity: identity, item: item, itemHash: hash, whole: whole)
  }

  /// What `prepareReserve` has fetched is there by now: fetches what it leads to.
  package func fetchPrepared(_ place: Int) {
    if let ordinal = core.index.candidate(scratch.prepared[place].itemHash) {
      scratch.prepared[place].candidate = ordinal
      core.items.prefetch(ordinal)
    }
    guard let whole = scratch.prepared[place].whole else { return }
    let ttl = whole.ttlNanoseconds ?? core.limits.ttlNanosecondsDefault
    let number = core.shardNumber(scratch.prepared[place].identity)
    core.shards[number].prefetchUnlocked(expiresAt: now &+ ttl, now: now)
  }

  /// Decides the prepared reserve that `usePrepared` has named, where it was prepared whole; else nil.
  package func reservePrepared() -> Decision<Hold>? {
    if scratch.preparedInUse < 0 { return nil }
    // The scratch stays where it is.
    let prepared = unsafe scratch.prepared.address(scratch.preparedInUse)
    guard let whole = unsafe prepared.pointee.whole else { return nil }
    assertInTurn()
    // A request before that broke a rule may have left some of it.
    clearLines()
    unsafe scratch.lines[0] = CommandLine(
      hash: prepared.pointee.itemHash, item: prepared.pointee.item, quantity: whole.quantity,
      candidate: prepared.pointee.candidate)
    scratch.lineCount = 1
    return unsafe reserve(prepared.pointee.scope, ttlNanoseconds: whole.ttlNanoseconds)
  }

  /// The reserve that comes next is the one that was prepared so; nil: it is none of them.
  @inline(__always)
  package func usePrepared(_ place: Int?) { scratch.preparedInUse = place ?? -1 }

  /// The hash of the item's name: from `prepareReserve`, or nil.
  @inline(__always)
  func preparedHash(_ item: ItemName) -> UInt64? {
    if scratch.preparedInUse < 0 { return nil }
    let place = scratch.preparedInUse
    guard scratch.prepared[place].item.sku.isSame(as: item.sku),
      scratch.prepared[place].item.location.isSame(as: item.location)
    else { return nil }
    return scratch.prepared[place].itemHash
  }

  @inline(__always)
  private func preparedIdentity(_ scope: IdempotencyScope) -> Identity? {
    let place = scratch.preparedInUse
    guard scratch.prepared[place].scope.key.isSame(as: scope.key),
      scratch.prepared[place].scope.caller.isSame(as: scope.caller)
    else { return nil }
    return scratch.prepared[place].identity
  }
}

/// What a reserve of one item asks for, if it asks for nothing else.
package struct WholeReserve: BitwiseCopyable {
  let quantity: Int64
  let ttlNanoseconds: Int64?

  /// - Parameters: as a reserve's.
  package init(quantity: Int64, ttlNanoseconds: Int64?) {
    self.quantity = quantity
    self.ttlNanoseconds = ttlNanoseconds
  }
}

/// A reserve that was prepared.
struct PreparedReserve: BitwiseCopyable {
  var scope: IdempotencyScope
  var identity: Identity
  var item: ItemName
  var itemHash: UInt64
  /// As CommandLine's, once it was fetched.
  var candidate: UInt32 = .max
  /// nil: it may ask for more than is known here.
  var whole: WholeReserve?
}

extension BorrowedBytes {
  /// Whether these are the same bytes in memory, not only equal ones.
  @inline(__always)
  fileprivate func isSame(as other: BorrowedBytes) -> Bool {
    unsafe count == other.count && pointer.baseAddress == other.pointer.baseAddress
  }
}

/// The identities of the commands that are expected, oldest first: each is hashed once. What is expected
/// and does not come is pushed out.
struct ExpectedIdentities {
  private struct Entry: BitwiseCopyable {
    var identity: Identity
    var method: StoreKeys.Method
    var callerCount: Int
    var keyCount: Int
    /// The caller's name, then the key: compared, since nobody promises that borrowed bytes stay.
    var bytes: InlineArray<64, UInt8>
  }

  static let capacity = 4
  private static let bytesMax = 64

  private let entries = FixedArray<Entry>(
    capacity: Self.capacity,
    repeating: Entry(
      identity: Identity(low: 0, high: 0), method: .reserve, callerCount: 0, keyCount: 0,
      bytes: InlineArray(repeating: 0)))
  /// Taken, and appended, since the store was opened; they differ by `capacity` at most.
  private var first = 0
  private var end = 0

  func free() { entries.free() }

  mutating func append(_ method: StoreKeys.Method, _ scope: IdempotencyScope, _ identity: Identity)
  {
    let (caller, key) = (scope.caller, scope.key)
    guard caller.count + key.count <= Self.bytesMax else { return }
    if end - first == Self.capacity { first += 1 }
    let entry = unsafe entries.address(end % Self.capacity)
    unsafe entry.pointee.identity = identity
    unsafe entry.pointee.method = method
    unsafe entry.pointee.callerCount = caller.count
    unsafe entry.pointee.keyCount = key.count
    let bytes = unsafe Self.bytes(entry)
    // Together at most `bytesMax`.
    unsafe Self.copy(caller, to: bytes)
    unsafe Self.copy(key, to: bytes + caller.count)
    end += 1
  }

  /// The identity of this command, if it was expected; those that were expected before it are dropped.
  @inline(__always)
  mutating func take(_ method: StoreKeys.Method, _ scope: IdempotencyScope) -> Identity? {
    var index = first
    while index < end {
      let entry = unsafe entries.address(index % Self.capacity)
      index += 1
      if unsafe Self.matches(entry, method, scope) {
        first = index
        return unsafe entry.pointee.identity
      }
    }
    return nil
  }

  private static func matches(
    _ entry: UnsafeMutablePointer<Entry>, _ method: StoreKeys.Method, _ scope: IdempotencyScope
  ) -> Bool {
    guard unsafe entry.pointee.method == method, unsafe entry.pointee.keyCount == scope.key.count,
      unsafe entry.pointee.callerCount == scope.caller.count
    else { return false }
    let bytes = unsafe bytes(entry)
    return unsafe isEqual(scope.key, bytes + scope.caller.count)
      && isEqual(scope.caller, bytes)
  }

  private static func bytes(_ entry: UnsafeMutablePointer<Entry>) -> UnsafeMutableRawPointer {
    guard let offset = MemoryLayout<Entry>.offset(of: \.bytes) else {
      preconditionFailure("the bytes are stored")
    }
    return unsafe UnsafeMutableRawPointer(entry) + offset
  }

  private static func copy(_ bytes: BorrowedBytes, to target: UnsafeMutableRawPointer) {
    guard let source = unsafe bytes.pointer.baseAddress else { return }
    unsafe target.copyMemory(from: source, byteCount: bytes.count)
  }

  private static func isEqual(_ bytes: BorrowedBytes, _ other: UnsafeMutableRawPointer) -> Bool {
    guard let source = unsafe bytes.pointer.baseAddress else { return true }
    return unsafe memcmp(source, other, bytes.count) == 0
  }
}
