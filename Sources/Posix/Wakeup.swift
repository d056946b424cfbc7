internal import CPlatform
internal import Glibc

/// Wakes a thread that sleeps in its poller, from any thread (eventfd(2)).
package final class Wakeup: Sendable {
  private let descriptor: FileDescriptor

  package init() throws(Errno) {
    descriptor = FileDescriptor(
      owning: try retrying { eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC)) })
  }

  /// The number to watch for reading.
  package var number: Int32 { descriptor.number }

  /// Makes the descriptor readable. Never blocks: a full counter is readable already.
  package func signal() {
    var one: UInt64 = 1
    _ = unsafe write(descriptor.number, &one, 8)
  }

  /// Waits for a signal for at most `nanoseconds`, and clears it. False where none came.
  @discardableResult
  package func wait(nanoseconds: Int64) -> Bool {
    guard hf_wait_readable(descriptor.number, max(0, nanoseconds)) > 0 else { return false }
    clear()
    return true
  }

  /// Takes all signals since the last clear. Call it before looking at what was signalled.
  package func clear() {
    var count: UInt64 = 0
    _ = unsafe read(descriptor.number, &count, 8)
  }
}
