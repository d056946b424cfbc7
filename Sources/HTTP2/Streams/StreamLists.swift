// In what a connection finds its streams: those that have something to send, and all by number.

/// Streams that take turns: a list through their records.
@safe struct SendQueue {
  /// Which list a record is in.
  enum Membership: UInt8 {
    case none
    case toSend
    case waitsForConnection
  }

  private(set) var first: UnsafeMutablePointer<StreamRecord>?
  private var last: UnsafeMutablePointer<StreamRecord>?

  /// Adds a record that is in no list.
  mutating func append(_ record: UnsafeMutablePointer<StreamRecord>, as membership: Membership) {
    unsafe record.pointee.sendQueue = membership
    unsafe record.pointee.previousToSend = last
    unsafe record.pointee.nextToSend = nil
    if let last = unsafe last {
      unsafe last.pointee.nextToSend = record
    } else {
      unsafe first = record
    }
    unsafe last = record
  }

  /// Takes out a record that is in this list.
  mutating func remove(_ record: UnsafeMutablePointer<StreamRecord>) {
    unsafe record.pointee.sendQueue = .none
    if let previous = unsafe record.pointee.previousToSend {
      unsafe previous.pointee.nextToSend = record.pointee.nextToSend
    } else {
      unsafe first = record.pointee.nextToSend
    }
    if let next = unsafe record.pointee.nextToSend {
      unsafe next.pointee.previousToSend = record.pointee.previousToSend
    } else {
      unsafe last = record.pointee.previousToSend
    }
    unsafe record.pointee.previousToSend = nil
    unsafe record.pointee.nextToSend = nil
  }
}

/// A connection's open streams by number: open addressing with backward-shift deletion.
@safe struct StreamMap {
  private var slots: UnsafeMutablePointer<UnsafeMutablePointer<StreamRecord>?>?
  private var capacity = 0
  private(set) var count = 0

  func find(_ number: Int32) -> UnsafeMutablePointer<StreamRecord>? {
    guard let slots = unsafe slots else { return nil }
    var slot = home(number)
    while let record = unsafe slots[slot] {
      if unsafe record.pointee.number == number { return unsafe record }
      slot = (slot + 1) & (capacity - 1)
    }
    return nil
  }

  /// Adds a stream that is not there; false where there is no memory.
  mutating func insert(
    _ record: UnsafeMutablePointer<StreamRecord>, _ pool: inout MemoryPool
  ) -> Bool {
    if (count + 1) * 2 > capacity, !grow(&pool) { return false }
    unsafe place(record)
    count += 1
    return true
  }

  mutating func remove(_ number: Int32) {
    guard let slots = unsafe slots else { return }
    let mask = capacity - 1
    var hole = home(number)
    while let record = unsafe slots[hole], unsafe record.pointee.number != number {
      hole = (hole + 1) & mask
    }
    guard unsafe slots[hole] != nil else { return }
    count -= 1
    var next = (hole + 1) & mask
    while let record = unsafe slots[next] {
      let home = unsafe home(record.pointee.number)
      // It may move back to the hole only if that does not take it before its home.
      if (next - home) & mask >= (next - hole) & mask {
        unsafe slots[hole] = record
        hole = next
      }
      next = (next + 1) & mask
    }
    unsafe slots[hole] = nil
  }

  mutating func destroy(_ pool: inout MemoryPool) {
    if let slots = unsafe slots { unsafe pool.free(UnsafeMutableRawPointer(slots)) }
    unsafe slots = nil
    capacity = 0
    count = 0
  }

  /// Multiplicative hashing (Knuth, volume 3, section 6.4). Numbers that follow each other must not lie
  /// side by side: every removal looks at the rest of its cluster.
  private func home(_ number: Int32) -> Int {
    let hash = UInt32(bitPattern: number) &* 0x9e37_79b1
    return Int(hash >> UInt32(32 - capacity.trailingZeroBitCount))
  }

  private mutating func place(_ record: UnsafeMutablePointer<StreamRecord>) {
    guard let slots = unsafe slots else { return }
    var slot = unsafe home(record.pointee.number)
    while unsafe slots[slot] != nil { slot = (slot + 1) & (capacity - 1) }
    unsafe slots[slot] = record
  }

  private mutating func grow(_ pool: inout MemoryPool) -> Bool {
    let larger = max(16, capacity * 2)
    let size = unsafe larger * MemoryLayout<UnsafeMutablePointer<StreamRecord>?>.stride
    guard let block = unsafe pool.allocate(size) else { return false }
    let old = unsafe slots
    let oldCapacity = capacity
    let fresh = unsafe block.bindMemory(
      to: UnsafeMutablePointer<StreamRecord>?.self, capacity: larger)
    unsafe fresh.initialize(repeating: nil, count: larger)
    unsafe slots = fresh
    capacity = larger
    guard let old = unsafe old else { return true }
    for slot in 0..<oldCapacity {
      if let record = unsafe old[slot] { unsafe place(record) }
    }
    unsafe pool.free(UnsafeMutableRawPointer(old))
    return true
  }
}
