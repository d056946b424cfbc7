// When do holds end? One wheel for each shard, guarded by the shard's lock. Time is cut into ticks of
// 2^30 ns (1.07 s), and blocks of 1,024 ticks (18 min). A hold waits
//   - staged, if it ends in the near tick or before: in the shard's heap, exactly ordered, and in the
//     heaps of its items (DueIndex). The near tick is two ticks ahead of the time;
//   - else in its tick's list, if it ends in a block that is open: the running one and, from two minutes
//     before it begins, the next;
//   - else in its block's list. 128 of them reach 39 h; a hold that ends later yet waits in the list
//     that it shares with an earlier block, and is put back when that one is opened.
// Each hold is touched at most once for each of the three steps, and unlinked at once when it ends early.
//
// However many holds share a list, moving them on stops nobody: a list whose time has come becomes a
// chain, which is worked off a few holds at a time, long before they are due.
internal import CPlatform
internal import Posix

@safe struct ExpiryWheel: ~Copyable {
  private static let ticksPerBlock: Int64 = 1024
  private static let tickLists: Int64 = 2 * ticksPerBlock
  private static let blockLists: Int64 = 128
  private static let listCount = Int(tickLists + blockLists)
  /// Staging begins so many ticks before it must be done: at least a second, also where a server that
  /// nobody is connected to looks once a second.
  private static let nearTicks: Int64 = 2
  private static let openTicks: Int64 = 128
  /// In place of the link of a hold that is staged.
  private static let stagedMark = UInt32.max

  private let records: RecordTable
  private let dues: DueIndex
  /// First slot + 1 of each list: ticks, then blocks.
  private let heads: UnsafeMutablePointer<UInt32>
  /// One bit for each list that is not empty.
  private let occupied: UnsafeMutablePointer<UInt64>
  /// What ends up to here is staged, but for `tickChain`.
  private var nearTick: Int64
  /// What ends up to here is not in a block's list, but for `blockChain`. At most one block after the
  /// near tick's, so that no two ticks share a list.
  private var openBlock: Int64
  /// First slot + 1 of the holds of the near tick that are to be staged.
  private var tickChain: UInt32 = 0
  /// First slot + 1 of the holds of the open block's list that are to be put into others.
  private var blockChain: UInt32 = 0
  private var heap = DueHeap()
  /// Nodes of `dues` that are in no heap.
  private var freeNodes: UInt32 = 0

  init(records: RecordTable, dues: DueIndex, now: Int64) {
    self.records = records
    self.dues = dues
    nearTick = Self.tick(now) + Self.nearTicks
    openBlock = nearTick / Self.ticksPerBlock
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

  /// The list where a hold waits that ends in `tick`, after the near one.
  @inline(__always)
  private func list(_ tick: Int64) -> Int {
    let block = tick / Self.ticksPerBlock
    return block <= openBlock ? tickList(tick) : blockList(block)
  }

  @inline(__always)
  private func tickList(_ tick: Int64) -> Int { Int(tick % Self.tickLists) }

  @inline(__always)
  private func blockList(_ block: Int64) -> Int {
    Int(Self.tickLists + block % Self.blockLists)
  }

  /// Adds the hold in `slot`, by its `expiresAt`; its lines are set. Before the time that it gives
  /// nothing of it need be done.
  @inline(__always)
  mutating func insert(_ slot: UInt32) -> Int64 {
    let expiresAt = records[slot].expiresAt
    let tick = Self.tick(expiresAt)
    if tick <= nearTick {
      stage(slot)
      return expiresAt
    }
    let list = list(tick)
    // `list` is below listCount, by the two remainders.
    let head = unsafe heads[list]
    records[slot].next = head
    records[slot].previous = 0
    if head != 0 { records[head - 1].previous = slot + 1 }
    unsafe heads[list] = slot + 1
    setOccupied(list, true)
    let block = tick / Self.ticksPerBlock
    return block <= openBlock ? start(tick: tick) : start(block: nextBlock(sharing: block))
  }

  /// Fetches the list that a hold of this end is put into, for who may not look at what changes: whether the
  /// block is open is guessed. A hint.
  @inline(__always)
  func prefetchUnlocked(expiresAt: Int64, now: Int64) {
    let tick = Self.tick(expiresAt)
    let isNear = tick - Self.tick(now) < Self.ticksPerBlock
    unsafe hf_prefetch(heads + (isNear ? tickList(tick) : blockList(tick / Self.ticksPerBlock)))
  }

  /// When staging begins.
  @inline(__always)
  private func start(tick: Int64) -> Int64 { (tick - Self.nearTicks) << 30 }

  /// When a block is opened.
  @inline(__always)
  private func start(block: Int64) -> Int64 {
    (block * Self.ticksPerBlock - Self.openTicks) << 30
  }

  /// The first block that is not open and has the same list.
  @inline(__always)
  private func nextBlock(sharing block: Int64) -> Int64 {
    openBlock + 1 + (block - openBlock - 1) & (Self.blockLists - 1)
  }

  /// Whether the hold in `slot` waits in the heaps of its items.
  @inline(__always)
  func isStaged(_ slot: UInt32) -> Bool { records[slot].previous == Self.stagedMark }

  /// Removes the hold in `slot`; its `expiresAt` is still what it was when it was inserted.
  @inline(__always)
  mutating func remove(_ slot: UInt32) {
    if isStaged(slot) { return unstage(slot) }
    let previous = records[slot].previous
    let next = records[slot].next
    if next != 0 { records[next - 1].previous = previous }
    if previous != 0 {
      records[previous - 1].next = next
    } else if tickChain == slot + 1 {
      tickChain = next
    } else if blockChain == slot + 1 {
      blockChain = next
    } else {
      let list = list(Self.tick(records[slot].expiresAt))
      unsafe heads[list] = next
      if next == 0 { setOccupied(list, false) }
    }
  }

  /// A staged hold's first node takes the place of its other link.
  @inline(never)
  private mutating func stage(_ slot: UInt32) {
    let expiresAt = records[slot].expiresAt
    heap.push(
      DueHeap.Entry(expiresAt: expiresAt, slot: slot, generation: records[slot].generation))
    var first: UInt32 = 0
    for index in 0..<records[slot].lineCount {
      if freeNodes == 0 { makeNodes() }
      let node = freeNodes
      freeNodes = dues.nextOfHold(node)
      dues.setNextOfHold(node, first)
      dues.add(
        node, ordinal: records[slot].line(index).item.ordinal, slot: slot, expiresAt: expiresAt)
      first = node
    }
    records[slot].next = first
    records[slot].previous = Self.stagedMark
  }

  private mutating func makeNodes() {
    let first = dues.makeChunk()
    for node in (first..<first + DueIndex.chunkNodes).reversed() {
      dues.setNextOfHold(node, freeNodes)
      freeNodes = node
    }
  }

  /// The heap keeps its entry, which is dropped when its time comes.
  @inline(never)
  private mutating func unstage(_ slot: UInt32) {
    var node = records[slot].next
    while node != 0 {
      let next = dues.nextOfHold(node)
      dues.remove(node)
      dues.setNextOfHold(node, freeNodes)
      freeNodes = node
      node = next
    }
    records[slot].next = 0
    records[slot].previous = 0
  }

  /// When the first staged hold falls due, if that is by `now`; it may have ended since.
  func firstDue(_ now: Int64) -> Int64? {
    heap.first.flatMap { $0.expiresAt <= now ? $0.expiresAt : nil }
  }

  /// A staged hold that is due at `now`, earliest first; nil where there is none. `remove` it then.
  mutating func takeDue(_ now: Int64) -> UInt32? {
    while let entry = heap.first, entry.expiresAt <= now {
      heap.dropFirst()
      if isLive(entry) { return entry.slot }
    }
    return nil
  }

  /// Staged holds that are due at `now`, `max` at most.
  func countDue(_ now: Int64, max: Int) -> Int {
    var (index, count, looks) = (0, 0, 0)
    while count < max, looks < 4 * max {
      if index < heap.count, heap[index].expiresAt <= now {
        looks += 1
        if isLive(heap[index]) { count += 1 }
        index = 2 * index + 1
      } else {
        // Nothing below an entry that is not due is due: on to the right, after all that is there up again.
        while index > 0, index % 2 == 0 { index = (index - 1) / 2 }
        if index == 0 { break }
        index += 1
      }
    }
    return count
  }

  /// Nothing need be done before this time; Int64.max where nothing waits.
  var nextWork: Int64 {
    var next = heap.first?.expiresAt ?? .max
    if tickChain != 0 { next = min(next, start(tick: nearTick)) }
    if blockChain != 0 { next = min(next, start(block: openBlock)) }
    let lastOpen = (openBlock + 1) * Self.ticksPerBlock - 1
    if let tick = firstOccupied(after: nearTick, through: lastOpen) {
      next = min(next, start(tick: tick))
      // It may be among the last of its block, and the next block is opened before them.
      let block = openBlock + 1
      return isOccupied(blockList(block)) ? min(next, start(block: block)) : next
    }
    for block in (openBlock + 1)...(openBlock + Self.blockLists)
    where isOccupied(blockList(block)) {
      return min(next, start(block: block))
    }
    return next
  }

  // MARK: Time

  /// Moves time forward where that moves no hold: before one is inserted.
  @inline(__always)
  mutating func catchUp(_ now: Int64) {
    if nearTick < Self.tick(now) + Self.nearTicks { _ = advance(now, max: 0) }
  }

  /// Moves time forward, and at most `max` holds on that are to be moved by then: how many it moved.
  @inline(never)
  mutating func advance(_ now: Int64, max: Int) -> Int {
    let tick = Self.tick(now)
    return advance(toTick: tick + Self.nearTicks, opening: tick + Self.openTicks, max: max)
  }

  /// Stages all that may be due at `now`, and no more.
  mutating func stageDue(_ now: Int64) {
    _ = advance(toTick: Self.tick(now), opening: 0, max: .max)
  }

  /// - Parameter opening: the block of this tick is opened, too.
  private mutating func advance(toTick target: Int64, opening: Int64, max: Int) -> Int {
    if target > nearTick + Self.ticksPerBlock, isEmpty {
      nearTick = target
      openBlock = target / Self.ticksPerBlock
    }
    var moved = 0
    while true {
      let lastOpen = (blockChain == 0 ? openBlock + 1 : openBlock) * Self.ticksPerBlock - 1
      let limit = min(target, lastOpen)
      if tickChain != 0, nearTick <= target {
        if moved == max { return moved }
        let slot = Self.takeFirst(&tickChain, records)
        stage(slot)
        moved += 1
      } else if nearTick < limit {
        nearTick = firstOccupied(after: nearTick, through: limit) ?? limit
        tickChain = takeList(tickList(nearTick))
      } else if blockChain != 0, nearTick < target || openBlock <= opening / Self.ticksPerBlock {
        if moved == max { return moved }
        let slot = Self.takeFirst(&blockChain, records)
        _ = insert(slot)
        moved += 1
      } else if nearTick < target || openBlock < opening / Self.ticksPerBlock {
        // Here the near tick is in the open block, or the one after `opening` is not.
        openBlock += 1
        blockChain = takeList(blockList(openBlock))
      } else {
        return moved
      }
    }
  }

  /// Whether nothing waits but what is staged.
  private var isEmpty: Bool {
    for word in 0..<Self.listCount / 64 where unsafe occupied[word] != 0 { return false }
    return tickChain == 0 && blockChain == 0
  }

  /// The slot of the first hold of a chain that is not empty; it leaves the chain.
  private static func takeFirst(_ chain: inout UInt32, _ records: RecordTable) -> UInt32 {
    let slot = chain - 1
    chain = records[slot].next
    if chain != 0 { records[chain - 1].previous = 0 }
    return slot
  }

  /// Empties a list: its first slot + 1.
  private mutating func takeList(_ list: Int) -> UInt32 {
    let head = unsafe heads[list]
    unsafe heads[list] = 0
    setOccupied(list, false)
    return head
  }

  /// Live holds that wait in the right place, and lines of those that are staged; walks all. For audits.
  func countWaiting() -> (holds: Int, stagedLines: Int) {
    var count = 0
    for list in 0..<Self.listCount {
      count += countChain(unsafe heads[list]) { tick in
        tick > nearTick && self.list(tick) == list
      }
    }
    count += countChain(tickChain) { $0 == nearTick }
    count += countChain(blockChain) { _ in true }
    var stagedLines = 0
    var staged: Set<UInt32> = []
    for index in 0..<heap.count where isLive(heap[index]) {
      let slot = heap[index].slot
      guard records[slot].previous == Self.stagedMark, staged.insert(slot).inserted else {
        continue
      }
      count += 1
      stagedLines += records[slot].lineCount
    }
    return (count, stagedLines)
  }

  private func countChain(_ head: UInt32, _ isRight: (_ tick: Int64) -> Bool) -> Int {
    var count = 0
    var next = head
    while next != 0 {
      if isRight(Self.tick(records[next - 1].expiresAt)) { count += 1 }
      next = records[next - 1].next
    }
    return count
  }

  private func isLive(_ entry: DueHeap.Entry) -> Bool {
    records[entry.slot].generation == entry.generation && records[entry.slot].kind == .held
      && records[entry.slot].expiresAt == entry.expiresAt
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

  /// The first tick in (after, through] whose list is not empty; they are no more than there are lists.
  private func firstOccupied(after: Int64, through: Int64) -> Int64? {
    var tick = after + 1
    while tick <= through {
      let list = tickList(tick)
      let rest = unsafe occupied[list / 64] >> UInt64(list % 64)
      if rest != 0 {
        let found = tick + Int64(rest.trailingZeroBitCount)
        return found <= through ? found : nil
      }
      tick += Int64(64 - list % 64)
    }
    return nil
  }
}
