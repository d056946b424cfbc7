internal import Synchronization

/// When each shard must be looked at next: side by side, since every turn reads them all. Each is
/// written under its shard's lock. A handle, as Region.
@safe package struct DueTimes: @unchecked Sendable {
  private let times: UnsafeMutablePointer<Atomic<Int64>>
  private let count: Int

  init(count: Int) {
    self.count = count
    unsafe times = .allocate(capacity: count)
    for index in 0..<count { unsafe (times + index).initialize(to: Atomic(.max)) }
  }

  func free() { unsafe times.deallocate() }

  /// In nanoseconds since the Unix epoch: no hold of the shard is due before.
  package subscript(shard: Int) -> Int64 {
    @inline(__always) get {
      assert(shard >= 0 && shard < count)
      return unsafe times[shard].load(ordering: .acquiring)
    }
    @inline(__always) nonmutating set {
      assert(shard >= 0 && shard < count)
      unsafe times[shard].store(newValue, ordering: .releasing)
    }
  }
}
