// One number for a whole state: equal states have equal digests, and different ones do not (2^-128).
internal import Bytes
package import Posix
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
  package func digest(at time: Int64) -> StateDigest {
    var digest = StateDigest()
    // The hashes of records are made in pairs.
    var words = DigestWords()
    var waiting = DigestWords()
    defer {
      words.free()
      waiting.free()
    }
    for ordinal in 0..<items.count {
      let version = items[ordinal].word.load(ordering: .acquiring) >> 1
      if version != 0, isMade(ordinal) { digest.add(itemHash(ordinal, version, &words)) }
    }
    addSales(to: &digest, &words)
    for slot in 0..<slab.slotCount {
      let kind = slab[slot].kind
      if kind == .free { continue }
      if kind != .held && slab[slot].endedAt <= time - limits.retentionNanoseconds { continue }
      append(slot, to: &words)
      if words.text.count > 0 {
        digest.add(recordHash(words))
      } else if waiting.isEmpty {
        swap(&words, &waiting)
      } else if waiting.count == words.count {
        let hashes = unsafe keys.digest.hashes128(
          waiting.pointer, waiting.last, words.pointer, words.last)
        digest.add(hashes.first)
        digest.add(hashes.second)
        waiting.removeAll()
      } else {
        digest.add(recordHash(words))
      }
    }
    if !waiting.isEmpty { digest.add(recordHash(waiting)) }
    return digest
  }

  private func recordHash(_ words: DigestWords) -> (low: UInt64, high: UInt64) {
    let none = unsafe BorrowedBytes.empty.pointer
    return unsafe keys.digest.hash128(words.pointer, words.text.pointer, none, words.last)
  }

  private func itemHash(
    _ ordinal: UInt32, _ version: UInt64, _ words: inout DigestWords
  ) -> (low: UInt64, high: UInt64) {
    let name = items.name(ordinal)
    words.removeAll()
    words.append(1)
    words.append(UInt64(ordinal))
    words.append(version)
    let balances = items[ordinal].balances
    words.append(UInt64(bitPattern: balances.onHand))
    words.append(UInt64(bitPattern: balances.held))
    words.append(UInt64(bitPattern: balances.safetyStock))
    // Only where it is: the state of an older version has the digest that it had.
    if balances.committed != 0 { words.append(UInt64(bitPattern: balances.committed)) }
    let sale = items.level(ordinal, version: version).sale
    if !sale.isAlways {
      words.append(sale.fromWord)
      words.append(sale.untilWord)
      words.append(UInt64(sale.lowBits))
    }
    return unsafe keys.digest.hash128(
      words.pointer, name.sku.pointer, name.location.pointer,
      UInt64(name.sku.count) | UInt64(name.location.count) << 32)
  }

  /// Fills `words` with what a record is hashed of.
  private func append(_ slot: UInt32, to words: inout DigestWords) {
    let numbers = SavedLines.numbers(slab[slot])
    words.removeAll()
    words.append(2)
    words.append(UInt64(slot) << 32 | UInt64(slab[slot].generation))
    words.append(slab[slot].identity.low)
    words.append(slab[slot].identity.high)
    words.append(slab[slot].fingerprint)
    words.append(UInt64(bitPattern: slab[slot].createdAt))
    words.append(UInt64(bitPattern: numbers.first))
    words.append(UInt64(bitPattern: numbers.second))
    words.append(UInt64(bitPattern: slab[slot].savedEnd))
    for index in 0..<numbers.lineCount {
      let line = SavedLines.line(slab[slot], index)
      words.append(UInt64(line.item))
      words.append(UInt64(bitPattern: line.quantity))
    }
    for index in 0..<slab[slot].levelCount { words.append(slab[slot].level(index)) }
    // A reservation that is as it was made has the digest that it had before there were revisions.
    let revision = slab[slot].revision
    if revision != 1 { words.append(revision) }
    // Likewise one that has its lines as they were asked for.
    let choice = slab[slot].choice
    if choice != .asAsked {
      words.append(UInt64(choice.rawValue) | UInt64(slab[slot].firstLineCount) << 8)
    }
    let limitCount = appendLimits(of: slot, to: &words)
    words.text = slab[slot].reference
    words.last =
      UInt64(slab[slot].kind.rawValue) | UInt64(words.text.count) << 8
      | (revision == 1 ? 0 : 1 << 16) | (choice == .asAsked ? 0 : 1 << 17) | limitCount << 18
      | UInt64(numbers.lineCount) << 32
  }

  /// How many there are.
  private func appendLimits(of slot: UInt32, to words: inout DigestWords) -> UInt64 {
    if slab[slot].limits.count == 0 { return 0 }
    var reader = LimitReader(slab[slot].limits)
    var count: UInt64 = 0
    while let limit = reader.next() {
      let subject = keys.subjectHash(limit.subject)
      words.append(subject.low)
      words.append(subject.high)
      words.append(UInt64(bitPattern: limit.maxUnits))
      count += 1
    }
    return count
  }

  /// What was sold to subjects under limits. What they hold follows from the reservations.
  private func addSales(to digest: inout StateDigest, _ words: inout DigestWords) {
    let none = unsafe BorrowedBytes.empty.pointer
    for place in 0..<subjects.placeEnd {
      subjects.forEachSales(at: place) { sales in
        words.removeAll()
        words.append(3)
        words.append(UInt64(sales.ordinal))
        words.append(sales.subject.low)
        words.append(sales.subject.high)
        words.append(UInt64(bitPattern: sales.sold))
        unsafe digest.add(keys.digest.hash128(words.pointer, none, none, 0))
      }
    }
  }
}

/// The words of one hash.
private struct DigestWords {
  /// Of a record: eleven, two for each line, or six for each level, and three for each limit.
  private static let countMax = 11 + 6 * StoreLimits.linesMax + 3 * StoreLimits.subjectsMax

  private let words = FixedArray<UInt64>(capacity: Self.countMax, repeating: 0)
  private(set) var count = 0
  /// The word behind them.
  var last: UInt64 = 0
  /// Hashed with them.
  var text = BorrowedBytes.empty

  var isEmpty: Bool { count == 0 }

  func free() { words.free() }

  mutating func removeAll() {
    count = 0
    text = .empty
  }

  @inline(__always)
  mutating func append(_ word: UInt64) {
    words[count] = word
    count += 1
  }

  mutating func append(_ level: StockLevel) {
    append(UInt64(level.item.ordinal))
    append(level.version)
    append(UInt64(bitPattern: level.onHand))
    append(UInt64(bitPattern: level.held))
    append(UInt64(bitPattern: level.committed))
    append(UInt64(bitPattern: level.safetyStock))
  }

  @unsafe var pointer: UnsafeBufferPointer<UInt64> {
    unsafe UnsafeBufferPointer(start: words.address(0), count: count)
  }
}
