// One number for a whole state: equal states have equal digests, and different ones do not (2^-128).
internal import Bytes
package import Posix
package import StockStore
internal import Synchronization

/// The sum of keyed hashes of all items, live reservations and recorded decisions, in no order. The log
/// sequence numbers are not in it: they say how a state came about.
package struct StateDigest: Equatable, Sendable, CustomStringConvertible {
  private var low: UInt64 = 0
  private var high: UInt64 = 0

  /// 32 hexadecimal digits.
  package var description: String { Self.hexadecimal(high) + Self.hexadecimal(low) }

  fileprivate init() {}

  /// Adds a hash as a number of 128 bits.
  fileprivate mutating func add(_ hash: (low: UInt64, high: UInt64)) {
    let (sum, carry) = low.addingReportingOverflow(hash.low)
    low = sum
    high = high &+ hash.high &+ (carry ? 1 : 0)
  }

  private static func hexadecimal(_ word: UInt64) -> String {
    let digits = String(word, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
  }
}

extension StockStore {
  /// The digest of what is remembered at `time`: decisions past their retention count as forgotten,
  /// whether or not they are yet. Every command waits while it runs, as during `audit`.
  package func stateDigest(at time: Timestamp) -> StateDigest {
    for number in 0..<core.shards.count { core.shards[number].lock.lock() }
    defer { for number in 0..<core.shards.count { core.shards[number].lock.unlock() } }
    return core.digest(at: time.nanoseconds)
  }
}

extension StoreCore {
  /// The digest, while nobody changes anything.
  func digest(at time: Int64) -> StateDigest {
    var digest = StateDigest()
    for ordinal in 0..<items.count {
      let version = items[ordinal].word.load(ordering: .acquiring) >> 1
      if version != 0 { digest.add(itemHash(ordinal, version)) }
    }
    for slot in 0..<slab.slotCount {
      let kind = slab[slot].kind
      if kind == .free { continue }
      if kind != .held && slab[slot].endedAt <= time - limits.retentionNanoseconds { continue }
      digest.add(recordHash(slab[slot], slot))
    }
    return digest
  }

  private func itemHash(_ ordinal: UInt32, _ version: UInt64) -> (low: UInt64, high: UInt64) {
    let name = items.name(ordinal)
    var hasher = SipHasher(keys.digest, wide: true)
    hasher.absorb(1)
    hasher.absorb(UInt64(ordinal))
    hasher.absorb(version)
    hasher.absorb(UInt64(bitPattern: items[ordinal].onHand.load(ordering: .acquiring)))
    hasher.absorb(UInt64(bitPattern: items[ordinal].held.load(ordering: .acquiring)))
    hasher.absorb(UInt64(bitPattern: items[ordinal].safetyStock.load(ordering: .acquiring)))
    unsafe hasher.absorb(bytes: name.sku.pointer)
    unsafe hasher.absorb(bytes: name.location.pointer)
    return hasher.finish128(UInt64(name.sku.count) | UInt64(name.location.count) << 32)
  }

  private func recordHash(
    _ record: ReservationRecord, _ slot: UInt32
  ) -> (low: UInt64, high: UInt64) {
    let numbers = CheckpointLines.numbers(record)
    var hasher = SipHasher(keys.digest, wide: true)
    hasher.absorb(2)
    hasher.absorb(UInt64(slot) << 32 | UInt64(record.generation))
    hasher.absorb(record.identity.low)
    hasher.absorb(record.identity.high)
    hasher.absorb(record.fingerprint)
    hasher.absorb(UInt64(bitPattern: record.createdAt))
    hasher.absorb(UInt64(bitPattern: numbers.first))
    hasher.absorb(UInt64(bitPattern: numbers.second))
    hasher.absorb(UInt64(bitPattern: record.savedEnd))
    for index in 0..<numbers.lineCount {
      let line = CheckpointLines.line(record, index)
      hasher.absorb(UInt64(line.item))
      hasher.absorb(UInt64(bitPattern: line.quantity))
    }
    return hasher.finish128(UInt64(record.kind.rawValue) | UInt64(numbers.lineCount) << 32)
  }
}
