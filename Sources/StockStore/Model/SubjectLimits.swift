// At most so many units of each item for one subject, whoever that is: a customer, a card, a household. A Reserve
// says its limits, and its hold keeps them for as long as it is remembered.

/// One limit.
package struct SubjectLimit: BitwiseCopyable {
  /// 1 to `bytesMax` bytes.
  package let subject: BorrowedBytes
  /// 1 to 2^40.
  package let maxUnits: Int64

  package static let bytesMax = 64
  package static let unitsMax: Int64 = 1 << 40

  package init(subject: BorrowedBytes, maxUnits: Int64) {
    self.subject = subject
    self.maxUnits = maxUnits
  }
}

/// 128-bit keyed hash of a subject: names it. Two different ones never meet (2^-128).
package struct SubjectHash: Equatable, BitwiseCopyable {
  package let low: UInt64
  package let high: UInt64

  package init(low: UInt64, high: UInt64) {
    self.low = low
    self.high = high
  }
}

/// Limits that a change of items has to keep, in the order in which the Reserve named them.
struct LimitSet: BitwiseCopyable {
  struct Entry: BitwiseCopyable {
    let limit: SubjectLimit
    let subject: SubjectHash
  }

  private(set) var count = 0
  private var entries = InlineArray<4, Entry>(
    repeating: Entry(
      limit: SubjectLimit(subject: .empty, maxUnits: 0), subject: SubjectHash(low: 0, high: 0)))

  subscript(index: Int) -> Entry { entries[index] }

  mutating func removeAll() { count = 0 }

  /// There are fewer than `StoreLimits.subjectsMax`.
  mutating func append(_ entry: Entry) {
    entries[count] = entry
    count += 1
  }

  /// The entries by their hashes: an order that does not depend on how they came.
  func forEachByHash(_ body: (Entry) -> Void) {
    var done: UInt8 = 0
    for _ in 0..<count {
      var next = -1
      for index in 0..<count where done >> UInt8(index) & 1 == 0 {
        if next < 0 || entries[index].subject.low < entries[next].subject.low { next = index }
      }
      done |= 1 << UInt8(next)
      body(entries[next])
    }
  }
}

/// Reads limits from bytes, as holds, the journal and checkpoints have them: one behind the other, each 8 bytes with its
/// units, 1 with the subject's length, and the subject (LimitText writes them).
package struct LimitReader {
  /// Of one, before the subject.
  static let headBytes = 9
  /// Of all limits that a reservation may have.
  package static let bytesMax = StoreLimits.subjectsMax * (headBytes + SubjectLimit.bytesMax)

  private let bytes: BorrowedBytes
  private var offset = 0

  package init(_ bytes: BorrowedBytes) { self.bytes = bytes }

  /// The next; nil at the end, or where none can be.
  package mutating func next() -> SubjectLimit? {
    let all = unsafe bytes.pointer
    guard all.count - offset > Self.headBytes, let base = all.baseAddress else {
      return nil
    }
    // Both lie within the bytes; so does the subject, if there are as many.
    let maxUnits = unsafe Int64(
      littleEndian: base.loadUnaligned(fromByteOffset: offset, as: Int64.self))
    let length = unsafe Int(base.load(fromByteOffset: offset + 8, as: UInt8.self))
    let start = offset + Self.headBytes
    guard 1...SubjectLimit.unitsMax ~= maxUnits, 1...SubjectLimit.bytesMax ~= length,
      all.count - start >= length
    else { return nil }
    offset = start + length
    let subject = unsafe BorrowedBytes(
      (base + start).assumingMemoryBound(to: UInt8.self), count: length)
    return SubjectLimit(subject: subject, maxUnits: maxUnits)
  }

  /// How many there are; nil where the bytes are not those of 0 to `StoreLimits.subjectsMax` limits.
  package static func count(_ bytes: BorrowedBytes) -> Int? {
    var reader = LimitReader(bytes)
    var count = 0
    while reader.next() != nil { count += 1 }
    return reader.offset == bytes.count && count <= StoreLimits.subjectsMax ? count : nil
  }
}
