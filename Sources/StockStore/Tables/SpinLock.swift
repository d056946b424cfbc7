internal import CPlatform
internal import Synchronization

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// Waits for another thread: a few pauses first, since the other one is nearly done; then the CPU is
/// given away, since on a small machine the other one may be waiting for it.
struct Waiting {
  private static let pausesMax = 64
  private var rounds = 0

  /// How often the CPU was given away.
  var yields: Int { max(0, rounds - Waiting.pausesMax) }

  mutating func once() {
    rounds += 1
    if rounds <= Waiting.pausesMax { hf_pause() } else { _ = sched_yield() }
  }
}

/// A lock for a few hundred nanoseconds of work.
struct SpinLock: ~Copyable {
  private let isLocked = Atomic<Bool>(false)

  @inline(__always)
  borrowing func lock() {
    if !isLocked.exchange(true, ordering: .acquiring) { return }
    wait()
  }

  @inline(__always)
  borrowing func unlock() { isLocked.store(false, ordering: .releasing) }

  @inline(never)
  private borrowing func wait() {
    var waiting = Waiting()
    repeat {
      while isLocked.load(ordering: .relaxed) { waiting.once() }
    } while isLocked.exchange(true, ordering: .acquiring)
  }
}
