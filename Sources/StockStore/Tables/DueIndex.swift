// Which holds of an item fall due soon? Of every hold that is staged (ExpiryWheel), one node for each of
// its lines, in a heap of the line's item, so that a command finds what is due of its own items at once
// while a sweep of all that is due is still going on.
//
// An item's heap is a pairing heap: adding costs the same however large it is, and so does, taken
// together, removing what falls due first. The node that is added last wins a tie: holds that are due at
// one moment form a chain, which comes apart link by link.
//
// A node belongs to the shard of its hold, and is added and removed under that shard's lock. What links
// the nodes of one item is guarded by a lock of the item's stripe, which is taken after the shard's.
internal import Synchronization

/// A handle, as Region.
@safe struct DueIndex: @unchecked Sendable {
  private struct Node {
    var expiresAt: Int64
    var slot: UInt32
    var ordinal: UInt32
    // Of nodes, their numbers, from 1; 0: none.
    var child: UInt32
    var sibling: UInt32
    /// The sibling before, or the parent of the first.
    var previous: UInt32
    /// Another node of the same hold.
    var nextOfHold: UInt32
  }

  private struct Header: ~Copyable {
    let chunks = Atomic<UInt32>(0)
  }

  static let chunkNodes: UInt32 = 512
  private static let stripeCount = 64

  /// By item: the number of the node that falls due first.
  private let roots: Region<Atomic<UInt32>>
  /// The addresses of the chunks.
  private let chunks: Region<UInt>
  private let header = PaddedArray<Header>(count: 1) { _ in Header() }
  private let stripes = PaddedArray<SpinLock>(count: DueIndex.stripeCount) { _ in SpinLock() }

  /// - Parameter holds: as many as there can be at a time.
  init(items: Int, holds: Int) {
    roots = Region(capacity: items, pages: .small)
    chunks = Region(capacity: Self.chunkCapacity(holds: holds), pages: .small)
  }

  private static func chunkCapacity(holds: Int) -> Int {
    let nodes = min(holds, Int(UInt32.max) / StoreLimits.linesMax) * StoreLimits.linesMax
    // Each shard may have a part of a chunk.
    return min(nodes, Int(UInt32.max)) / Int(chunkNodes) + StoreCore.shardsMax
  }

  /// What it takes of the address space.
  static func addressSpace(items: Int, holds: Int) -> Int {
    Region<Atomic<UInt32>>.mappedBytes(capacity: items)
      + Region<UInt>.mappedBytes(capacity: chunkCapacity(holds: holds))
  }

  func free() {
    for chunk in 0..<header[0].chunks.load(ordering: .relaxed) {
      unsafe UnsafeMutablePointer<Node>(bitPattern: chunks[chunk])?.deallocate()
    }
    roots.free()
    chunks.free()
    header.free()
    stripes.free()
  }

  /// Bytes in use, without the words of the items.
  var bytes: Int {
    Int(header[0].chunks.load(ordering: .relaxed) * Self.chunkNodes) * MemoryLayout<Node>.stride
  }

  /// Makes a chunk: the number of the first of its nodes.
  func makeChunk() -> UInt32 {
    let chunk = header[0].chunks.wrappingAdd(1, ordering: .relaxed).oldValue
    precondition(chunk < chunks.capacity, "more lines than all holds together can have")
    let nodes = UnsafeMutablePointer<Node>.allocate(capacity: Int(Self.chunkNodes))
    let unused = Node(
      expiresAt: 0, slot: 0, ordinal: 0, child: 0, sibling: 0, previous: 0, nextOfHold: 0)
    unsafe nodes.initialize(repeating: unused, count: Int(Self.chunkNodes))
    chunks[chunk] = UInt(bitPattern: nodes)
    return chunk * Self.chunkNodes + 1
  }

  // MARK: Under the lock of the hold's shard

  /// The other node that `setNextOfHold` has named.
  func nextOfHold(_ node: UInt32) -> UInt32 { self[node].nextOfHold }

  /// Of a node that is in no heap, it may be used for anything.
  func setNextOfHold(_ node: UInt32, _ next: UInt32) { self[node].nextOfHold = next }

  /// The hold in `slot` has units of the item, until `expiresAt`.
  func add(_ node: UInt32, ordinal: UInt32, slot: UInt32, expiresAt: Int64) {
    self[node].ordinal = ordinal
    self[node].slot = slot
    self[node].expiresAt = expiresAt
    self[node].child = 0
    self[node].sibling = 0
    self[node].previous = 0
    lock(ordinal)
    let root = roots[ordinal].load(ordering: .relaxed)
    roots[ordinal].store(root == 0 ? node : merged(node, root), ordering: .releasing)
    unlock(ordinal)
  }

  func remove(_ node: UInt32) {
    let ordinal = self[node].ordinal
    lock(ordinal)
    let root = roots[ordinal].load(ordering: .relaxed)
    let children = mergedChildren(node)
    if root == node {
      roots[ordinal].store(children, ordering: .releasing)
    } else {
      cut(node)
      if children != 0 {
        roots[ordinal].store(merged(children, root), ordering: .releasing)
      }
    }
    unlock(ordinal)
  }

  // MARK: Under no lock

  /// The slot of a hold of the item that is due at `now`; nil where there is none. Whether it still is
  /// there must be asked under the lock of its shard.
  func firstDue(_ ordinal: UInt32, _ now: Int64) -> UInt32? {
    if roots[ordinal].load(ordering: .acquiring) == 0 { return nil }
    lock(ordinal)
    defer { unlock(ordinal) }
    let root = roots[ordinal].load(ordering: .relaxed)
    return root != 0 && self[root].expiresAt <= now ? self[root].slot : nil
  }

  /// Nodes of the item; walks all. For audits.
  func count(_ ordinal: UInt32) -> Int {
    lock(ordinal)
    defer { unlock(ordinal) }
    var rest = [roots[ordinal].load(ordering: .relaxed)]
    var count = 0
    while let node = rest.popLast() {
      if node == 0 { continue }
      count += 1
      rest.append(self[node].child)
      rest.append(self[node].sibling)
    }
    return count
  }

  // MARK: The heap, under the lock of the item's stripe

  /// Makes one heap of two: its root. The first one's stays the root where both fall due together.
  private func merged(_ first: UInt32, _ second: UInt32) -> UInt32 {
    let isFirst = self[first].expiresAt <= self[second].expiresAt
    let (root, child) = isFirst ? (first, second) : (second, first)
    let next = self[root].child
    self[child].sibling = next
    self[child].previous = root
    if next != 0 { self[next].previous = child }
    self[root].child = child
    self[root].sibling = 0
    self[root].previous = 0
    return root
  }

  /// Makes one heap of all below `node`: its root; 0 where there is nothing.
  private func mergedChildren(_ node: UInt32) -> UInt32 {
    // Two by two from the first, then all from the last.
    var pairs: UInt32 = 0
    var rest = self[node].child
    while rest != 0 {
      let first = rest
      let second = self[first].sibling
      var pair = first
      rest = 0
      if second != 0 {
        rest = self[second].sibling
        pair = merged(first, second)
      }
      self[pair].sibling = pairs
      pairs = pair
    }
    var root: UInt32 = 0
    while pairs != 0 {
      let pair = pairs
      pairs = self[pair].sibling
      self[pair].sibling = 0
      self[pair].previous = 0
      root = root == 0 ? pair : merged(pair, root)
    }
    return root
  }

  /// Takes a node that is no root, and all that was below it, away from its parent.
  private func cut(_ node: UInt32) {
    let (previous, sibling) = (self[node].previous, self[node].sibling)
    if self[previous].child == node {
      self[previous].child = sibling
    } else {
      self[previous].sibling = sibling
    }
    if sibling != 0 { self[sibling].previous = previous }
  }

  @inline(__always)
  private func lock(_ ordinal: UInt32) { stripes[Int(ordinal) % Self.stripeCount].lock() }

  @inline(__always)
  private func unlock(_ ordinal: UInt32) { stripes[Int(ordinal) % Self.stripeCount].unlock() }

  @inline(__always)
  private subscript(node: UInt32) -> Node {
    unsafeAddress { unsafe UnsafePointer(address(node)) }
    nonmutating unsafeMutableAddress { unsafe address(node) }
  }

  @inline(__always)
  private func address(_ node: UInt32) -> UnsafeMutablePointer<Node> {
    assert(node > 0, "no node")
    // Numbers come from chunks that were made.
    let chunk = unsafe UnsafeMutablePointer<Node>(
      bitPattern: chunks[(node - 1) / Self.chunkNodes])
    return unsafe chunk.unsafelyUnwrapped + Int((node - 1) % Self.chunkNodes)
  }
}
