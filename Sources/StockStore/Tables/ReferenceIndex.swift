// Which reservations have a reference, or limits? They have them in a node of their own; the limits of a reservation
// change as little as its identity.
//
// Which reservations have a reference? Those that have one, and nobody else, pay for it: each has its text in a
// node of its own, and the node is in a treap, a search tree that chance keeps flat, ordered by the reference's
// hash and then by the slot. So the reservations of one reference stand side by side, whoever goes through them
// can go on from a slot, and nothing is ever moved or copied at once.
//
// A node belongs to the shard of its record, and is made, added, removed and freed under that shard's lock. What
// links the nodes of one stripe is guarded by a lock of the stripe, which is taken after the shard's.
internal import Synchronization

/// What a reservation has besides its lines: a reference, with its place in the index, and limits. A handle: whoever
/// has it frees it.
@safe package struct ReferenceNode: Equatable {
  fileprivate struct Head {
    var hash: UInt64
    var slot: UInt32
    var count: UInt16
    /// Before the text.
    var limitBytes: UInt16
    // Addresses; 0: none.
    var left: UInt
    var right: UInt
  }

  private let head: UnsafeMutablePointer<Head>

  /// - Parameters:
  ///   - text: the reference; one without is in no index.
  ///   - hash: `StoreKeys.referenceHash` of the text.
  ///   - limits: as LimitText has them.
  package init(
    _ text: BorrowedBytes, hash: UInt64, slot: UInt32, limits: BorrowedBytes = .empty
  ) {
    let headBytes = MemoryLayout<Head>.size
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: headBytes + limits.count + text.count, alignment: 8)
    unsafe head = memory.initializeMemory(
      as: Head.self,
      to: Head(
        hash: hash, slot: slot, count: UInt16(text.count), limitBytes: UInt16(limits.count),
        left: 0, right: 0))
    // There is room for both behind the head.
    if let base = unsafe limits.pointer.baseAddress {
      unsafe (memory + headBytes).copyMemory(from: base, byteCount: limits.count)
    }
    guard let base = unsafe text.pointer.baseAddress else { return }
    unsafe (memory + headBytes + limits.count).copyMemory(from: base, byteCount: text.count)
  }

  /// - Parameter address: of a node; 0: none.
  init?(address: UInt) {
    guard let head = unsafe UnsafeMutablePointer<Head>(bitPattern: address) else { return nil }
    unsafe self.head = head
  }

  package static func == (first: ReferenceNode, second: ReferenceNode) -> Bool {
    first.address == second.address
  }

  var address: UInt { unsafe UInt(bitPattern: head) }

  func free() { unsafe head.deallocate() }

  package var text: BorrowedBytes {
    bytes(at: unsafe Int(head.pointee.limitBytes), count: unsafe Int(head.pointee.count))
  }

  /// As LimitText has them; empty where there are none.
  package var limits: BorrowedBytes { bytes(at: 0, count: unsafe Int(head.pointee.limitBytes)) }

  private func bytes(at offset: Int, count: Int) -> BorrowedBytes {
    let start = unsafe UnsafeRawPointer(head) + MemoryLayout<Head>.size + offset
    return unsafe BorrowedBytes(start.assumingMemoryBound(to: UInt8.self), count: count)
  }

  /// Whether it is found by its reference, or should be.
  var isIndexed: Bool { unsafe head.pointee.count > 0 }

  package var hash: UInt64 { unsafe head.pointee.hash }

  fileprivate var slot: UInt32 { unsafe head.pointee.slot }

  /// Nodes with a higher one are nearer to the root. Who gives references does not know the key of their hash.
  fileprivate var priority: UInt64 {
    var mixed = (hash ^ UInt64(slot) &* 0x9e37_79b9_7f4a_7c15) &* 0xff51_afd7_ed55_8ccd
    mixed ^= mixed >> 33
    return mixed &* 0xc4ce_b9fe_1a85_ec53
  }

  fileprivate func isBefore(_ hash: UInt64, _ slot: UInt32) -> Bool {
    self.hash < hash || self.hash == hash && self.slot < slot
  }

  /// Where the links to what is before and behind the node stand.
  fileprivate var left: Link {
    unsafe withUnsafeMutablePointer(to: &head.pointee.left) { unsafe Link($0) }
  }
  fileprivate var right: Link {
    unsafe withUnsafeMutablePointer(to: &head.pointee.right) { unsafe Link($0) }
  }

  /// A place that names a node, within another node or a stripe: neither ever moves.
  @safe fileprivate struct Link {
    private let place: UnsafeMutablePointer<UInt>

    init(_ place: UnsafeMutablePointer<UInt>) { unsafe self.place = place }

    var node: ReferenceNode? {
      get { ReferenceNode(address: unsafe place.pointee) }
      nonmutating set { unsafe place.pointee = newValue?.address ?? 0 }
    }
  }
}

/// A handle, as Region.
@safe package struct ReferenceIndex: @unchecked Sendable {
  private struct Stripe: ~Copyable {
    let lock = SpinLock()
    var root: UInt = 0
  }

  private static let stripeCount = 64

  private let stripes = PaddedArray<Stripe>(count: ReferenceIndex.stripeCount) { _ in Stripe() }

  /// The nodes belong to the records.
  func free() { stripes.free() }

  /// The node is in no index.
  package func add(_ node: ReferenceNode) {
    let stripe = lock(node.hash)
    defer { stripes[stripe].lock.unlock() }
    var link = root(stripe)
    while let next = link.node, next.priority >= node.priority {
      link = next.isBefore(node.hash, node.slot) ? next.right : next.left
    }
    // What is below is parted into what is before the node and what is behind it.
    var (rest, left, right) = (link.node, node.left, node.right)
    link.node = node
    while let next = rest {
      if next.isBefore(node.hash, node.slot) {
        left.node = next
        left = next.right
        rest = left.node
      } else {
        right.node = next
        right = next.left
        rest = right.node
      }
    }
    left.node = nil
    right.node = nil
  }

  /// The node is in the index.
  package func remove(_ node: ReferenceNode) {
    let stripe = lock(node.hash)
    defer { stripes[stripe].lock.unlock() }
    var link = root(stripe)
    while let next = link.node, next != node {
      link = next.isBefore(node.hash, node.slot) ? next.right : next.left
    }
    precondition(link.node == node, "a reference that is not in the index")
    var (left, right) = (node.left.node, node.right.node)
    while let before = left, let behind = right {
      if before.priority >= behind.priority {
        link.node = before
        link = before.right
        left = link.node
      } else {
        link.node = behind
        link = behind.left
        right = link.node
      }
    }
    link.node = left ?? right
  }

  /// The first slot from `slot` on whose reference has this hash; nil where there is none. Which reference it
  /// is must be asked under the lock of its shard.
  package func next(_ hash: UInt64, from slot: UInt32) -> UInt32? {
    let stripe = lock(hash)
    defer { stripes[stripe].lock.unlock() }
    var found: ReferenceNode?
    var rest = root(stripe).node
    while let node = rest {
      if node.isBefore(hash, slot) {
        rest = node.right.node
      } else {
        found = node
        rest = node.left.node
      }
    }
    return found.flatMap { $0.hash == hash ? $0.slot : nil }
  }

  /// Whether the node is there. For audits.
  func has(_ node: ReferenceNode) -> Bool { next(node.hash, from: node.slot) == node.slot }

  /// Nodes in the index; walks all. For audits.
  var count: Int {
    var count = 0
    for stripe in 0..<Self.stripeCount {
      stripes[stripe].lock.lock()
      defer { stripes[stripe].lock.unlock() }
      var rest = [root(stripe).node]
      while let next = rest.popLast() {
        guard let node = next else { continue }
        count += 1
        rest.append(node.left.node)
        rest.append(node.right.node)
      }
    }
    return count
  }

  private func lock(_ hash: UInt64) -> Int {
    let stripe = Int(truncatingIfNeeded: hash) & (Self.stripeCount - 1)
    stripes[stripe].lock.lock()
    return stripe
  }

  private func root(_ stripe: Int) -> ReferenceNode.Link {
    unsafe withUnsafeMutablePointer(to: &stripes.address(stripe).pointee.root) {
      unsafe ReferenceNode.Link($0)
    }
  }
}
