// An owner of a replicated log that has nothing to append says that it is there, now and then.
package import Posix
internal import Synchronization

package final class LeaseKeeper: Sendable {
  private let log: any ReplicatedLog
  private let epoch: Atomic<UInt32>
  private let interval: Int64
  private let stopping: Wakeup
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<Thread?>(nil)

  /// Begins at once.
  /// - Parameters:
  ///   - interval: in nanoseconds: a fourth of the lease. In an interval in which something was appended it says
  ///     nothing.
  ///   - onFailure: called once, from the keeper's thread: the log has another owner, of an epoch above all that this
  ///     one has told of.
  package init(
    _ log: any ReplicatedLog, epoch: UInt32, interval: Int64,
    onFailure: @escaping @Sendable (JournalError) -> Void
  ) throws(Errno) {
    self.log = log
    self.epoch = Atomic(epoch)
    self.interval = interval
    stopping = try Wakeup()
    let started = try Thread(name: "lease") { [self] in run(onFailure) }
    thread.withLock { $0 = started }
  }

  /// The owner is about to take the log once more: from now on the keeper beats under that epoch, and waits for it.
  package func raise(to newEpoch: UInt32) { epoch.store(newEpoch, ordering: .releasing) }

  private func run(_ onFailure: (JournalError) -> Void) {
    var seen = log.leaseEnd
    while !stopping.wait(nanoseconds: interval), !isStopping.load(ordering: .acquiring) {
      let leaseEnd = log.leaseEnd
      if leaseEnd != seen {
        seen = leaseEnd
        continue
      }
      do throws(JournalError) {
        try log.beat(epoch: epoch.load(ordering: .acquiring))
        seen = log.leaseEnd
      } catch .fenced(let other) where other <= epoch.load(ordering: .acquiring) {
        // By this owner itself, which has taken the log once more while the beat was on its way.
      } catch {
        if !isStopping.load(ordering: .acquiring) { onFailure(error) }
        return
      }
    }
  }

  package func stop() {
    isStopping.store(true, ordering: .releasing)
    stopping.signal()
    let started = thread.withLock { thread in
      let started = thread
      thread = nil
      return started
    }
    started?.join()
  }
}
