package import Bytes

/// The keyed hashes, each with a key of its own.
package struct StoreKeys: Sendable {
  package enum Method: UInt64, BitwiseCopyable {
    case reserve = 1
    case adjust = 2
    case replace = 3
    case adjustTogether = 40
    case importRows = 41
    case remove = 42
  }

  private let item: SipKey
  private let identity: SipKey
  private let fingerprint: SipKey
  private let reservePayload: SipKey
  private let page: SipKey
  private let use: SipKey
  private let owner: SipKey
  /// For the state's digest.
  package let digest: SipKey
  private let watch: SipKey
  private let reference: SipKey
  private let replacePayload: SipKey
  private let subject: SipKey

  package init(secret: SipKey) {
    item = secret.derived(1)
    identity = secret.derived(2)
    fingerprint = secret.derived(3)
    use = secret.derived(4)
    digest = secret.derived(6)
    reservePayload = secret.derived(9)
    page = secret.derived(16)
    owner = secret.derived(17)
    watch = secret.derived(18)
    reference = secret.derived(32)
    replacePayload = secret.derived(33)
    subject = secret.derived(36)
  }

  @inline(__always)
  package func itemHash(_ name: ItemName) -> UInt64 {
    unsafe item.hash(
      name.sku.pointer, name.location.pointer,
      UInt64(name.sku.count) | UInt64(name.location.count) << 32)
  }

  @inline(__always)
  package func identity(_ method: Method, _ scope: IdempotencyScope) -> Identity {
    let lengths = UInt64(scope.caller.count) << 8 | UInt64(scope.key.count) << 32
    let (low, high) = unsafe identity.hash128(
      scope.caller.pointer, scope.key.pointer, method.rawValue | lengths)
    return Identity(low: low, high: high)
  }

  /// Whose hold it is that this caller reserves.
  @inline(__always)
  package func owner(_ caller: BorrowedBytes) -> HoldOwner {
    if caller.count == 0 { return .unknown }
    return unsafe HoldOwner(
      hash: owner.hash(caller.pointer, BorrowedBytes.empty.pointer, UInt64(caller.count)))
  }

  /// For the payload that comes with the key of an AdjustStock; and of the first release's Reserve.
  @inline(__always)
  package func fingerprintHasher() -> SipHasher { SipHasher(fingerprint) }

  /// For the payload that comes with the key of a Reserve. Its key is another than the first release's, so
  /// that a fingerprint of the one kind never meets one of the other.
  @inline(__always)
  package func reserveFingerprintHasher() -> SipHasher { SipHasher(reservePayload) }

  /// For the payload that comes with the key of a Replace.
  func replaceFingerprintHasher() -> SipHasher { SipHasher(replacePayload) }

  /// By which a reference is found, and known in a payload.
  package func referenceHash(_ text: BorrowedBytes) -> UInt64 {
    unsafe reference.hash(text.pointer, BorrowedBytes.empty.pointer, UInt64(text.count))
  }

  /// Names whoever has a limit.
  package func subjectHash(_ text: BorrowedBytes) -> SubjectHash {
    let (low, high) = unsafe subject.hash128(
      text.pointer, BorrowedBytes.empty.pointer, UInt64(text.count))
    return SubjectHash(low: low, high: high)
  }

  /// For the position that a page of a list ends at. No two lists feed the same words: the number of
  /// the list is in the last one.
  /// - Parameter reference: the hash of the one that is asked for; nil for all.
  package func pageTag(
    list: UInt8, filter: UInt8, reference: UInt64?, position: UInt64
  ) -> UInt64 {
    var hasher = SipHasher(page)
    hasher.absorb(position)
    if let reference { hasher.absorb(reference) }
    return hasher.finish(UInt64(list) | UInt64(filter) << 8)
  }

  /// For the resume tokens of the change feed: over words that begin with what they are for.
  package func watchHasher() -> SipHasher { SipHasher(watch) }

  /// What tells the history of a store since its last repair or restore from those before and beside it: each
  /// gives its items other versions, by a random number.
  package func history(firstVersion: UInt64) -> UInt64 {
    var hasher = watchHasher()
    hasher.absorb(1)
    return hasher.finish(firstVersion)
  }

  /// Of one use of a slot: what of a reservation's tag can be computed before its record is there.
  @inline(__always)
  package func useHash(slot: UInt32, generation: UInt32) -> UInt64 {
    use.hash(UInt64(slot) << 32 | UInt64(generation))
  }

  /// The tag that the first release gave.
  @inline(__always)
  package static func firstReleaseTag(_ useHash: UInt64) -> UInt64 { useHash & 0xffff_ffff }

  /// Two histories of one directory may use a slot with the same generation, if rarely; hardly for the
  /// same customer's same call in the same nanosecond. Both hashes are keyed, so that who knows the one
  /// by some other id does not know their sum. Never 0, which stands for none in the journal.
  @inline(__always)
  package static func idTag(_ useHash: UInt64, _ identity: Identity, createdAt: Int64) -> UInt64 {
    // Times differ in their lower bits, the tag has the upper ones.
    let time = UInt64(bitPattern: createdAt) &* 0x9e37_79b9_7f4a_7c15
    return max(1, (useHash &+ identity.high &+ time) >> (64 - ReservationID.tagBits))
  }
}
