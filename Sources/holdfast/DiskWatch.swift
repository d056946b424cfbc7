// The disk of a server that runs: how much room it has, and whether the journal waits for it. The log tells each
// condition when it begins and when it ends, once; the metrics have it at every scrape.
internal import Log
internal import Logging
internal import Metrics
internal import Posix
internal import StockStore
internal import Synchronization

/// Looks four times a second, on a thread of its own: a file system that does not answer keeps nobody else.
final class DiskWatch: Sendable {
  private struct State {
    var store: StockStore?
    /// By directory: data, archive.
    var rooms: [(directory: String, room: FileSystemRoom)] = []
    var neededBytes = 0
    var stalledSeconds = 0.0
  }

  private let settings: Settings
  private let logger: Logger
  private let state = Mutex(State())

  init(_ settings: Settings, _ logger: Logger) {
    self.settings = settings
    self.logger = logger
  }

  /// Looks from now on, until the process ends: there is nothing to be put away. Without a journal there is
  /// nothing to look at.
  func start() throws(CommandFailure) {
    guard settings.durability != nil else { return }
    do throws(Errno) {
      _ = try Thread(name: "disk") { self.run() }
    } catch {
      throw CommandFailure(description: "cannot start the thread that watches the disk: \(error)")
    }
  }

  /// The journal runs.
  func watch(_ store: StockStore) { state.withLock { $0.store = store } }

  // MARK: Looking

  // What the loop calls is not put into it: as one large loop it takes the optimizer minutes.

  private func run() {
    guard let pause = try? Wakeup() else { return }
    var filling = Condition()
    var full = Condition()
    var stalled = Condition()
    var progress = JournalProgress()
    while true {
      let now = SystemClock.monotonicNanoseconds()
      let numbers = state.withLock { $0.store }?.journalStatistics
      let room = look(numbers)
      if let room { tellFilling(&filling, room, now) }
      if let numbers {
        tellFull(&full, numbers, room, now)
        tellStalled(&stalled, &progress, numbers, now)
      }
      pause.wait(nanoseconds: Limits.diskWatchedNanoseconds)
    }
  }

  /// The data directory's room; nil where it cannot be told.
  @inline(never)
  private func look(_ numbers: JournalStatistics?) -> FileSystemRoom? {
    let data = try? FileSystemRoom(path: settings.dataDirectory)
    let archive = settings.archive.isEmpty ? nil : try? FileSystemRoom(path: settings.archive)
    let segments = settings.journalSegmentBytes * (Limits.journalSpareSegments + 1)
    state.withLock { state in
      state.rooms = []
      if let data { state.rooms.append(("data", data)) }
      if let archive { state.rooms.append(("archive", archive)) }
      state.neededBytes = segments + (numbers?.checkpointBytesLast ?? 0)
    }
    return data
  }

  @inline(never)
  private func tellFilling(_ filling: inout Condition, _ room: FileSystemRoom, _ now: Int64) {
    let needed = state.withLock { $0.neededBytes }
    // A quarter more, so that what comes and goes at the border is one condition.
    let bytes = filling.isOn ? needed / 4 * 5 : needed
    let metadata: Logger.Metadata = [
      "data-dir": "\(settings.dataDirectory)",
      "free-bytes": .stringConvertible(room.freeBytes),
      "needed-bytes": .stringConvertible(needed),
    ]
    switch filling.set(room.freeBytes < bytes, now) {
    case .began:
      logger.warning(
        "the disk is filling: it has no room for the next segments and checkpoint",
        metadata: metadata)
    case .ended(let seconds):
      logger.notice("the disk has room again", metadata: metadata.lasting(seconds))
    case nil: break
    }
  }

  @inline(never)
  private func tellFull(
    _ full: inout Condition, _ numbers: JournalStatistics, _ room: FileSystemRoom?, _ now: Int64
  ) {
    let metadata: Logger.Metadata = [
      "data-dir": "\(settings.dataDirectory)",
      "free-bytes": .stringConvertible(room?.freeBytes ?? 0),
    ]
    switch full.set(numbers.unavailable == .noSpace, now) {
    case .began:
      logger.error("the disk is full: changes are refused until it has room", metadata: metadata)
    case .ended(let seconds):
      logger.notice("changes are taken again", metadata: metadata.lasting(seconds))
    case nil: break
    }
  }

  @inline(never)
  private func tellStalled(
    _ stalled: inout Condition, _ progress: inout JournalProgress, _ numbers: JournalStatistics,
    _ now: Int64
  ) {
    let waited = progress.waited(numbers, now)
    state.withLock { $0.stalledSeconds = Double(waited) / 1e9 }
    // A full disk has been told.
    let isStalled = waited >= Limits.stallToldNanoseconds && numbers.unavailable != .noSpace
    let metadata: Logger.Metadata = [
      "lag-bytes": .stringConvertible(numbers.lsn - min(numbers.lsn, numbers.durableLSN))
    ]
    let whose = numbers.replica == nil ? "the disk" : "the engine or the disk"
    switch stalled.set(isStalled, now) {
    case .began:
      logger.warning(
        "the journal waits for \(whose): nothing is answered that it does not have yet",
        metadata: metadata)
    case .ended(let seconds):
      logger.notice("the journal goes on", metadata: metadata.lasting(seconds))
    case nil: break
    }
  }

  // MARK: Metrics

  func expose(into page: inout Exposition) {
    guard settings.durability != nil else { return }
    let (rooms, needed, stalled) = state.withLock {
      ($0.rooms, $0.neededBytes, $0.stalledSeconds)
    }
    page.gauge(
      "holdfast_disk_free_bytes", help: "Room on the file system of a directory.",
      samples: rooms.map { ([("directory", $0.directory)], Double($0.room.freeBytes)) })
    page.gauge(
      "holdfast_disk_total_bytes", help: "Size of the file system of a directory.",
      samples: rooms.map { ([("directory", $0.directory)], Double($0.room.totalBytes)) })
    page.gauge(
      "holdfast_disk_needed_bytes",
      help:
        "What the journal's next segments and checkpoint take; with less room the disk is filling.",
      value: Double(needed))
    page.gauge(
      "holdfast_journal_stalled_seconds",
      help: "Time since the last sync, while decisions wait for the next one; else 0.",
      value: stalled)
  }
}

/// Whether something is so, and since when.
private struct Condition {
  enum Change {
    case began
    case ended(seconds: Double)
  }

  /// Monotonic nanoseconds; nil: it is not so.
  private var began: Int64?

  var isOn: Bool { began != nil }

  /// What has changed.
  mutating func set(_ isOn: Bool, _ now: Int64) -> Change? {
    switch (began, isOn) {
    case (nil, true):
      began = now
      return .began
    case (let began?, false):
      self.began = nil
      return .ended(seconds: Double(now - began) / 1e9)
    default: return nil
    }
  }
}

/// How far the journal was when somebody looked.
private struct JournalProgress {
  private var durableLSN: UInt64 = 0
  private var changed: Int64 = .min

  /// How long decisions have waited while none became durable, in nanoseconds.
  mutating func waited(_ numbers: JournalStatistics, _ now: Int64) -> Int64 {
    if changed == .min || numbers.durableLSN != durableLSN || numbers.lsn <= numbers.durableLSN {
      durableLSN = numbers.durableLSN
      changed = now
    }
    return now - changed
  }
}

extension Logger.Metadata {
  /// With how long something lasted.
  fileprivate func lasting(_ seconds: Double) -> Logger.Metadata {
    merging(["seconds": .stringConvertible((seconds * 1000).rounded() / 1000)]) { $1 }
  }
}
