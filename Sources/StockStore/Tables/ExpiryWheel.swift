// When do holds end? One wheel for each shard, guarded by the shard's lock. Time is cut into ticks of
// 2^30 ns (1.07 s), and blocks of 1,024 ticks (18 min). A hold waits
//   - in the heap, exactly ordered, if it ends in the running tick (or before);
//   - else in its tick's list, if it ends in the running block;
//   - else in its block's list. 128 of them reach 39 h; a hold that ends later yet waits in the list
//     that it shares with an earlier block, and is put back when that one's time comes.
// Where it waits follows from when it ends, so it is unlinked at once when it ends early, and the lists
// hold live holds only. Each hold is touched at most once for each of the three steps.
internal import Posix

@safe struct ExpiryWheel: ~Copyable {
  private static let ticksPerBlock: Int64 = 1024
  private static let blockLists: Int64 = 128
  private static let listCount = Int(ticksPerBlock + blockLists)

  private let records: RecordTable
  /// First slot + 1 of each list: ticks, then blocks.
  private let heads: UnsafeMutablePointer<UInt32>
  /// One bit for each list that is not empty.
  private let occupied: UnsafeMutablePointer<UInt64>
  private var tick: Int64
  private var heap = DueHeap()

  init(records: RecordTable, now: Int64) {
    self.records = records
    tick = Self.tick(now)
    unsafe heads = .allocate(capacity: Self.listCount)
    unsafe heads.initialize(repeating: 0, count: Self.listCount)
    unsafe occupied = .allocate(capacity: Self.listCount / 64)
    unsafe occupied.initialize(repeating: 0, count: Self.listCount / 64)
  }

  deinit {
    unsafe heads.deallocate()
    unsafe occupied.deallocate()
  }

  /// Bytes in use.
  var bytes: Int { Self.listCount * 4 + Self.listCount / 8 + heap.bytes }

  @inline(__always)
  private static func tick(_ nanoseconds: Int64) -> Int64 { nanoseconds >> 30 }

  /// The list where a hold of `tick` waits; nil: the heap.
  @inline(__always)
  private func list(_ tick: Int64) -> Int? {
    if tick <= self.tick { return nil }
    let block = tick / Self.ticksPerBlock
    if block == self.tick / Self.ticksPerBlock { return Int(tick % Self.ticksPerBlock) }
    return Int(Self.ticksPerBlock + block % Self.blockLists)
  }

  /// Adds the hold in `slot`, by its `expiresAt`. Before this time nothing of it need be done.
  @inline(__always)
  mutating func insert(_ slot: UInt32) -> Int64 {
    let expiresAt = records[slot].expiresAt
    guard let list = list(Self.tick(expiresAt)) else {
      heap.push(
        DueHeap.Entry(expiresAt: expiresAt, slot: slot, generation: records[slot].generation))
      return expiresAt
    }
    // `list` is below listCount, by the two remainders.
    let head = unsafe heads[list]
    records[slot].next = head
    records[slot].previous = 0
    if head != 0 { records[head - 1].previous = slot + 1 }
    unsafe heads[list] = slot + 1
    setOccupied(list, true)
    return start(list)
  }

  /// When `list` must be looked at: at its tick or, after the running block, at the next block that it
  /// is for.
  @inline(__always)
  private func start(_ list: Int) -> Int64 {
    let block = tick / Self.ticksPerBlock
    if list < Self.ticksPerBlock { return (block * Self.ticksPerBlock + Int64(list)) << 30 }
    let distance = (Int64(list) - Self.ticksPerBlock - block - 1) & (Self.blockLists - 1)
    return ((block + 1 + distance) * Self.ticksPerBlock) << 30
  }

  /// Removes the hold in `slot`; its `expiresAt` is still what it was when it was inserted.
  @inline(__always)
  mutating func remove(_ slot: UInt32) {
    // What waits in the heap stays there, and is dropped when its time comes.
    guard let list = list(Self.tick(records[slot].expiresAt)) else { return }
    let next = records[slot].next
    let previous = records[slot].previous
    if next != 0 { records[next - 1].previous = previous }
    if previous != 0 {
      records[previous - 1].next = next
    } else {
      unsafe heads[list] = next
      if next == 0 { setOccupied(list, false) }
    }
  }

  /// Whether `takeDue` has to look.
  func hasDue(_ now: Int64) -> Bool { heap.first.map { $0.expiresAt <= now } ?? false }

  /// A hold that is due at `now`, earliest first; nil where there is none. It leaves the wheel.
  mutating func takeDue(_ now: Int64) -> UInt32? {
    while let entry = heap.first, entry.expiresAt <= now {
      heap.dropFirst()
      if isLive(entry) { return entry.slot }
    }
    return nil
  }

  /// No hold is due before this time; Int64.max where nothing waits.
  var nextDue: Int64 {
    if let first = heap.first { return first.expiresAt }
    if let list = firstOccupied(after: Int(tick % Self.ticksPerBlock), below: 1024) {
      return start(list)
    }
    let block = tick / Self.ticksPerBlock
    for passed in (block + 1)...(block + Self.blockLists) where isOccupied(blockList(passed)) {
      return start(blockList(passed))
    }
    return .max
  }

  /// Moves time forward: what ends in the tick of `now` or before goes to the heap.
  @inline(__always)
  mutating func advance(_ now: Int64) {
    if Self.tick(now) > tick { advance(toTick: Self.tick(now)) }
  }

  private mutating func advance(toTick newTick: Int64) {
    let old = tick
    tick = newTick
    let oldBlock = old / Self.ticksPerBlock
    let block = tick / Self.ticksPerBlock
    let lastList = oldBlock == block ? Int(tick % Self.ticksPerBlock) : Int(Self.ticksPerBlock) - 1
    var position = Int(old % Self.ticksPerBlock)
    while let list = firstOccupied(after: position, below: lastList + 1) {
      drain(list)
      position = list
    }
    if block == oldBlock { return }
    // Beyond one turn of the block lists every list has been drained once.
    for passed in (oldBlock + 1)...min(block, oldBlock + Self.blockLists) {
      drain(blockList(passed))
    }
  }

  /// Puts every hold of `list` where it belongs now.
  private mutating func drain(_ list: Int) {
    var next = unsafe heads[list]
    unsafe heads[list] = 0
    setOccupied(list, false)
    while next != 0 {
      let slot = next - 1
      next = records[slot].next
      _ = insert(slot)
    }
  }

  /// Live holds that wait in the right place; walks all. For audits.
  func countWaiting() -> Int {
    var count = 0
    for list in 0..<Self.listCount {
      var next = unsafe heads[list]
      while next != 0 {
        if self.list(Self.tick(records[next - 1].expiresAt)) == list { count += 1 }
        next = records[next - 1].next
      }
    }
    for index in 0..<heap.count where isLive(heap[index]) { count += 1 }
    return count
  }

  private func isLive(_ entry: DueHeap.Entry) -> Bool {
    records[entry.slot].generation == entry.generation && records[entry.slot].kind == .held
      && records[entry.slot].expiresAt == entry.expiresAt
  }

  private func blockList(_ block: Int64) -> Int {
    Int(Self.ticksPerBlock + block % Self.blockLists)
  }

  @inline(__always)
  private func setOccupied(_ list: Int, _ isOccupied: Bool) {
    let bit: UInt64 = 1 << UInt64(list % 64)
    let bits = unsafe occupied[list / 64]
    unsafe occupied[list / 64] = isOccupied ? bits | bit : bits & ~bit
  }

  private func isOccupied(_ list: Int) -> Bool {
    unsafe occupied[list / 64] & 1 << UInt64(list % 64) != 0
  }

  /// The first list in (after, below) that is not empty; `below` is at most the number of lists.
  private func firstOccupied(after: Int, below: Int) -> Int? {
    var list = after + 1
    while list < below {
      let rest = unsafe occupied[list / 64] >> UInt64(list % 64)
      if rest != 0 {
        let found = list + rest.trailingZeroBitCount
        return found < below ? found : nil
      }
      list = (list / 64 + 1) * 64
    }
    return nil
  }
}
