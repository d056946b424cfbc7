internal import Bytes

/// Keyed hash of a field's name and value, of 128 bits: two that differ never meet (2^-128), whatever a peer
/// that does not have the key may try.
struct FieldIdentity: Equatable, BitwiseCopyable {
  let low: UInt64
  let high: UInt64
}

/// The table that a peer fills as it sends header blocks (RFC 7541 sections 2.3.2 and 4).
///
/// Names and values stand one behind the other in one run of bytes, oldest first, each field whole. What
/// is evicted leaves a gap in front; when the end of the memory is reached, what lives moves to the front.
/// There is no memory before the first field, and it doubles as fields come.
@safe struct HPACKDynamicTable: ~Copyable {
  /// The largest size that the peer may choose, in bytes as section 4.1 counts them.
  let sizeLimit: Int
  /// The size that the peer chose.
  private(set) var sizeMax: Int
  private(set) var size = 0
  private(set) var count = 0
  /// Fields that were ever entered.
  private var entered: UInt64 = 0

  /// Section 4.1: what a field counts for beside its bytes.
  static let fieldOverhead = 32
  private static let bytesMin = 512
  private static let fieldsMin = 16

  /// Where a field begins, counted from the first byte that was ever entered, and its lengths. Positions
  /// wrap; only their differences are used.
  private struct Entry {
    var position: UInt32
    var nameCount: UInt16
    var valueCount: UInt16
    /// See `identity`; of zeros until it is asked for.
    var identity = FieldIdentity(low: 0, high: 0)
  }

  private var bytes: UnsafeMutablePointer<UInt8>?
  private var capacity = 0
  /// The position of the memory's first byte.
  private var origin: UInt32 = 0
  /// Where the oldest field begins and the newest ends, in the memory.
  private var start = 0
  private var end = 0
  /// A ring; its capacity is a power of two.
  private var entries: UnsafeMutablePointer<Entry>?
  private var entryCapacity = 0
  private var oldest = 0

  /// - Parameter sizeLimit: 4,096 (what every peer starts with, RFC 9113 section 6.5.2) to 65,535.
  init(sizeLimit: Int) {
    precondition(sizeLimit >= Int(Defaults.headerTableBytes) && sizeLimit <= 65_535)
    self.sizeLimit = sizeLimit
    sizeMax = Int(Defaults.headerTableBytes)
    unsafe bytes = nil
    unsafe entries = nil
  }

  deinit {
    unsafe bytes?.deallocate()
    unsafe entries?.deallocate()
  }

  /// Bytes of memory that the table holds.
  var memoryBytes: Int { capacity + entryCapacity * MemoryLayout<Entry>.stride }

  /// The field with this index, 0 for the newest; until the next change.
  func name(_ index: Int) -> UnsafeBufferPointer<UInt8> {
    let entry = entry(index)
    return unsafe UnsafeBufferPointer(
      start: bytes.unsafelyUnwrapped + Int(entry.position &- origin), count: Int(entry.nameCount))
  }

  func value(_ index: Int) -> UnsafeBufferPointer<UInt8> {
    let entry = entry(index)
    return unsafe UnsafeBufferPointer(
      start: bytes.unsafelyUnwrapped + Int(entry.position &- origin) + Int(entry.nameCount),
      count: Int(entry.valueCount))
  }

  /// The number of the field with this index: each that is entered has its own, for ever.
  func number(_ index: Int) -> UInt64 { entered - 1 - UInt64(index) }

  /// What the field with this index says, whenever it was entered.
  /// - Parameter key: always the same one.
  mutating func identity(_ index: Int, _ key: SipKey) -> FieldIdentity {
    precondition(index >= 0 && index < count, "no such field")
    let place = (oldest + count - 1 - index) & (entryCapacity - 1)
    // There are fields, so there is memory for them.
    let known = unsafe entries.unsafelyUnwrapped[place].identity
    if known != FieldIdentity(low: 0, high: 0) { return known }
    var hasher = SipHasher(key, wide: true)
    let (name, value) = unsafe (self.name(index), self.value(index))
    unsafe hasher.absorb(bytes: UnsafeRawBufferPointer(name))
    unsafe hasher.absorb(bytes: UnsafeRawBufferPointer(value))
    let (low, high) = hasher.finish128(UInt64(name.count) << 32 | UInt64(value.count))
    let identity = FieldIdentity(low: low, high: high)
    unsafe entries.unsafelyUnwrapped[place].identity = identity
    return identity
  }

  /// The number of the oldest field that is there; where there is none, of the next that will be.
  var oldestNumber: UInt64 { entered - UInt64(count) }

  private func entry(_ index: Int) -> Entry {
    precondition(index >= 0 && index < count, "no such field")
    // There are fields, so there is memory for them.
    return unsafe entries.unsafelyUnwrapped[(oldest + count - 1 - index) & (entryCapacity - 1)]
  }

  /// Enters a field, after those were evicted that it needs the room of (section 4.4). One that is larger
  /// than the table empties it. Neither part may lie in this table.
  mutating func insert(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    let length = name.count + value.count
    let needed = length + Self.fieldOverhead
    guard needed <= sizeMax else { return removeAll() }
    evict(to: sizeMax - needed)
    // The first field, be it empty, makes the memory.
    if capacity - end < length || capacity == 0 { makeRoom(for: length) }
    if count == entryCapacity { growEntries() }
    // Both have room now, and the parts lie elsewhere.
    unsafe entries.unsafelyUnwrapped[(oldest + count) & (entryCapacity - 1)] = Entry(
      position: origin &+ UInt32(end), nameCount: UInt16(name.count),
      valueCount: UInt16(value.count))
    append(name)
    append(value)
    count += 1
    entered += 1
    size += needed
  }

  /// A size update (section 4.3), at most `sizeLimit`.
  mutating func setSizeMax(_ bytes: Int) {
    precondition(bytes >= 0 && bytes <= sizeLimit)
    sizeMax = bytes
    evict(to: bytes)
  }

  mutating func removeAll() { evict(to: 0) }

  private mutating func evict(to most: Int) {
    while size > most {
      let entry = entry(count - 1)
      let length = Int(entry.nameCount) + Int(entry.valueCount)
      oldest = (oldest + 1) & (entryCapacity - 1)
      count -= 1
      start += length
      size -= length + Self.fieldOverhead
    }
    if count == 0 {
      origin &+= UInt32(end)
      start = 0
      end = 0
    }
  }

  private mutating func append(_ text: Span<UInt8>) {
    let count = text.count
    unsafe text.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe (bytes.unsafelyUnwrapped + end).update(from: base, count: count)
    }
    end += count
  }

  private mutating func makeRoom(for length: Int) {
    let live = end - start
    // A quarter more than the fields can have, so that moving them costs a few bytes a byte entered.
    let most = sizeLimit + sizeLimit / 4
    if live + length <= capacity / 4 * 3 || capacity >= most, let bytes = unsafe bytes {
      unsafe bytes.update(from: bytes + start, count: live)
    } else {
      capacity = min(most, max(Self.bytesMin, capacity * 2, live + length))
      let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
      if let bytes = unsafe bytes {
        unsafe larger.update(from: bytes + start, count: live)
        unsafe bytes.deallocate()
      }
      unsafe bytes = larger
    }
    origin &+= UInt32(start)
    start = 0
    end = live
  }

  private mutating func growEntries() {
    let grown = max(Self.fieldsMin, entryCapacity * 2)
    let larger = UnsafeMutablePointer<Entry>.allocate(capacity: grown)
    if let entries = unsafe entries {
      for index in 0..<count {
        unsafe (larger + index).initialize(to: entries[(oldest + index) & (entryCapacity - 1)])
      }
      unsafe entries.deallocate()
    }
    unsafe entries = larger
    entryCapacity = grown
    oldest = 0
  }
}
