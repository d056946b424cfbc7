internal import Synchronization

/// Who sweeps the wheels, and where.
struct Sweep: ~Copyable {
  let lock = SpinLock()
  /// Guarded by the lock.
  var nextShard = 0
}

/// When the wheel of each shard must be looked at next: side by side, since every turn reads them all. Each
/// is written under its shard's lock. A handle, as Region.
@safe package struct WorkTimes: @unchecked Sendable {
  private let times: UnsafeMutablePointer<Atomic<Int64>>
  private let count: Int

  init(count: Int) {
    self.count = count
    unsafe times = .allocate(capacity: count)
    for index in 0..<count { unsafe (times + index).initialize(to: Atomic(.max)) }
  }

  func free() { unsafe times.deallocate() }

  /// In nanoseconds since the Unix epoch: before, no hold of the shard is due or to be moved.
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
