internal import Posix
internal import Synchronization

/// A lock for a few hundred nanoseconds of work.
package struct SpinLock: ~Copyable {
  private let isLocked = Atomic<Bool>(false)

  @inline(__always)
  package borrowing func lock() {
    if !isLocked.exchange(true, ordering: .acquiring) { return }
    wait()
  }

  /// Whether it was free, and is the caller's now.
  borrowing func tryLock() -> Bool {
    !isLocked.load(ordering: .relaxed) && !isLocked.exchange(true, ordering: .acquiring)
  }

  @inline(__always)
  package borrowing func unlock() {
    assert(isTaken, "a lock that nobody has")
    isLocked.store(false, ordering: .releasing)
  }

  /// For assertions: whether somebody has it.
  var isTaken: Bool { isLocked.load(ordering: .relaxed) }

  @inline(never)
  private borrowing func wait() {
    var waiting = Waiting()
    repeat {
      while isLocked.load(ordering: .relaxed) { waiting.once() }
    } while isLocked.exchange(true, ordering: .acquiring)
  }
}
