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
  package borrowing func unlock() { isLocked.store(false, ordering: .releasing) }

  @inline(never)
  private borrowing func wait() {
    var waiting = Waiting()
    repeat {
      while isLocked.load(ordering: .relaxed) { waiting.once() }
    } while isLocked.exchange(true, ordering: .acquiring)
  }
}
