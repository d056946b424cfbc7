// The token file of a server that runs: read again when it changes, without a restart.
internal import Posix
internal import Synchronization

/// A token file, and the list that was made of its newest good version.
///
/// A connection keeps the principal that a header block led to. It may keep it for as long as
/// `generation` is what it was: every new list raises it, and so does the moment at which an entry
/// expires. So a token that is taken out of the file is refused from the next call on, on connections
/// that are open too.
package final class AccessListFile: Sendable {
  /// What a look at the file came to.
  package enum Report: Equatable, Sendable {
    /// Nothing that anybody need hear of.
    case unchanged
    /// A new list is in force.
    case replaced(entries: Int, warnings: [String])
    /// The list before stays in force. Told once for each reason.
    case kept(why: String)
  }

  private struct State {
    var list: AccessList
    /// Of the bytes that the list was made of.
    var digest: Digest
    /// The file as it was read last, good or bad; nil where it could not be.
    var seen: FileStatus?
    /// A change in place that was seen once: somebody may be writing.
    var unsettled: FileStatus?
    var problem: String?
    /// Expiries of the list that have passed.
    var expired: Int
  }

  package let path: String
  /// What the operator should know about the first version.
  package let warnings: [String]
  private let limits: AccessLimits
  private let state: Mutex<State>
  private let generationNumber = Atomic<UInt64>(1)

  /// Reads the file.
  /// - Parameter now: nanoseconds since the Unix epoch.
  /// - Throws: why it cannot be read, or the first mistake in it.
  package init(path: String, limits: AccessLimits, now: Int64) throws(AccessError) {
    self.path = path
    self.limits = limits
    let contents = try TokenFile.read(path, limits)
    let list = AccessList(
      try TokenFile.parse(contents.bytes, path: path, limits: limits), limits: limits)
    warnings = Self.warnings(list, contents.status)
    state = Mutex(
      State(
        list: list, digest: Digest(of: contents.bytes.span), seen: contents.status,
        expired: Self.expired(list, now)))
  }

  /// What was found out under a lower number is not to be kept. From 1, never going back.
  package var generation: UInt64 { generationNumber.load(ordering: .acquiring) }

  /// The list in force. Read `generation` before, not after: then what is kept is dropped rather too
  /// early than too late.
  package var list: AccessList { state.withLock { $0.list } }

  /// Looks whether the file has changed, and whether an entry has expired. Costs a stat(2); for about once
  /// a second. A file that was written to in place is read when it is the same at two looks: half of it
  /// may be a good file too. One that was put in the place of the other (rename(2), as `holdfast token`
  /// and Kubernetes do) is read at once.
  /// - Parameter now: nanoseconds since the Unix epoch.
  package func poll(now: Int64) -> Report {
    state.withLock { state in
      let report = look(&state)
      noteExpiries(&state, now)
      return report
    }
  }

  /// Reads the file now, whatever it looks like (SIGHUP).
  package func reload(now: Int64) -> Report {
    state.withLock { state in
      state.problem = nil
      let report = read(&state)
      noteExpiries(&state, now)
      return report
    }
  }

  private func look(_ state: inout State) -> Report {
    let status: FileStatus
    do throws(Errno) { status = try FileStatus(path: path) } catch {
      state.seen = nil
      return kept("\(path): \(error)", &state)
    }
    if status == state.seen {
      state.unsettled = nil
      return .unchanged
    }
    let isInPlace = status.inode == state.seen?.inode && status.device == state.seen?.device
    if isInPlace, status != state.unsettled {
      state.unsettled = status
      return .unchanged
    }
    return read(&state)
  }

  private func read(_ state: inout State) -> Report {
    state.unsettled = nil
    do throws(AccessError) {
      let contents = try TokenFile.read(path, limits)
      state.seen = contents.status
      let digest = Digest(of: contents.bytes.span)
      // The same bytes make the same list: connections may keep what they have.
      if digest == state.digest {
        state.problem = nil
        return .unchanged
      }
      let list = AccessList(
        try TokenFile.parse(contents.bytes, path: path, limits: limits), limits: limits)
      state.list = list
      state.digest = digest
      state.problem = nil
      state.expired = 0
      // Behind the list: whoever sees the number finds the list.
      generationNumber.wrappingAdd(1, ordering: .acquiringAndReleasing)
      return .replaced(entries: list.count, warnings: Self.warnings(list, contents.status))
    } catch {
      return kept(error.description, &state)
    }
  }

  private func kept(_ why: String, _ state: inout State) -> Report {
    if state.problem == why { return .unchanged }
    state.problem = why
    return .kept(why: why)
  }

  private func noteExpiries(_ state: inout State, _ now: Int64) {
    let expired = Self.expired(state.list, now)
    if expired == state.expired { return }
    state.expired = expired
    generationNumber.wrappingAdd(1, ordering: .acquiringAndReleasing)
  }

  private static func expired(_ list: AccessList, _ now: Int64) -> Int {
    list.expiries.firstIndex { $0 > now } ?? list.expiries.count
  }

  private static func warnings(_ list: AccessList, _ status: FileStatus) -> [String] {
    var warnings: [String] = []
    if status.isWritableByOthers {
      warnings.append("others than its owner may write to it, and so make themselves callers")
    }
    if status.isReadableByAll {
      warnings.append("everybody on this machine may read who the callers are (chmod o-r)")
    }
    if list.count == 0 { warnings.append("it has no entries: every call is refused") }
    return warnings
  }
}
