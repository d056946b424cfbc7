internal import CPlatform

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// Waits for another thread: a few pauses first, since the other one is nearly done; then the CPU is
/// given away, since on a small machine the other one may be waiting for it.
package struct Waiting {
  private static let pausesMax = 64
  private var rounds = 0

  package init() {}

  /// How often the CPU was given away.
  package var yields: Int { max(0, rounds - Waiting.pausesMax) }

  package mutating func once() {
    rounds += 1
    if rounds <= Waiting.pausesMax { hf_pause() } else { _ = sched_yield() }
  }
}
