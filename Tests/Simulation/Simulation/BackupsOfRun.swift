// What a run knows of its archive and of the backups that were taken: every history of the store, what the archive
// has said that it has of it, and the state at each log sequence number, since a restore may ask for any.
internal import Log
internal import Posix
internal import StockStore
internal import StorePersistence
internal import Synchronization

/// Lives as long as the run.
struct BackupsOfRun {
  /// A store since its last repair or restore.
  struct History {
    /// Oldest first.
    var states: [SimulationRun.Snapshot]
    /// The archive has said that it has all up to here.
    var archivedLSN: UInt64 = 0
    /// It has also said that it lacks segments for good.
    var isLossTold = false
    /// It was empty when a process began with it, and begins behind what some backups have.
    var beginsLate = false

    /// A restore with it may come upon a gap.
    var mayHaveGap: Bool { isLossTold || beginsLate }
  }

  /// A backup that has its name.
  struct Taken {
    let files: [String: [UInt8]]
    let manifest: BackupManifest
    /// Of `histories`.
    var history: Int
    /// The states that it has, from whatever checkpoint on.
    let states: [SimulationRun.Snapshot]
    /// A crash has taken the end of what was copied from where it was: it never was durable there.
    var survivedLSN: UInt64?
  }

  /// A backup that is being taken.
  struct Open {
    let reader: BackupReader
    let writer: BackupWriter
    let draft: SimulatedDraft
    /// What the server had acknowledged when it began.
    let durableLSN: UInt64
    /// A server gives it: nothing that is not durable may be there.
    let isOfServer: Bool
  }

  /// A copy that an operator has put back without a word to the archive.
  struct Fork {
    /// What it is a copy of.
    let history: Int
    let state: SimulationRun.Snapshot
    let endLSN: UInt64
  }

  private static let statesMax = 500
  static let takenMax = 4

  var random: SeededRandom
  /// nil: nothing is archived in this run.
  let archive: ArchiveDisk?
  /// Not in every process.
  var isArchiving: Bool
  let losses = LossCount()
  private(set) var histories: [History] = []
  private(set) var current = 0
  private(set) var taken: [Taken] = []
  var open: Open?
  private(set) var fork: Fork?
  /// What of each item was told in histories that were given up: from the first version on.
  private(set) var told: [(sku: String, versions: ClosedRange<UInt64>)] = []

  /// Of a hundred steps of the run: those in which the archive takes something, a backup is begun, a piece of it
  /// is read.
  let archivePercent: Int
  let backupPercent: Int
  let piecePercent: Int
  /// Of a hundred disks of the archive, and of backups: those at which something goes wrong.
  let faultPercent: Int
  /// Segments that may wait for the archive behind what a start needs.
  let waitingMax: Int
  /// Longer, and with longer records: many segments are archived.
  let isBulky: Bool

  init(seed: UInt64, _ fault: Mutant?) {
    // Numbers of its own: what else a seed does is the same with backups and without.
    var random = SeededRandom(seed: seed ^ 0x6261_636b)
    let hasArchive = random.chance(80) || fault?.isOfBackups == true
    archive = hasArchive ? ArchiveDisk(SimulatedStorage(random: random.split())) : nil
    isArchiving = hasArchive
    archivePercent = random.pick([100, 40, 10, 3])
    backupPercent = random.pick([2, 5])
    piecePercent = random.pick([100, 30, 2])
    faultPercent = random.pick([0, 30, 70])
    waitingMax = random.pick([1 << 20, 1 << 20, 0, 1])
    isBulky = random.chance(30)
    self.random = random
  }

  func set(_ options: inout JournalOptions) {
    options.archiveTailNanoseconds = 0
    options.unarchivedBytesMax = waitingMax * options.segmentBytes
  }

  /// What the process that begins archives to.
  ///
  /// An operator who has put a copy back starts the server as it was.
  var archiveInUse: ArchiveDisk? { isArchiving || fork != nil ? archive : nil }

  // MARK: States

  mutating func note(_ state: SimulationRun.Snapshot) {
    if let last = histories[current].states.last, last.lsn >= state.lsn { return }
    histories[current].states.append(state)
    if histories[current].states.count > Self.statesMax {
      histories[current].states.removeFirst(Self.statesMax / 4)
    }
  }

  /// What is behind `lsn` was lost in a crash.
  mutating func forget(behind lsn: UInt64) {
    guard histories.indices.contains(current) else { return }
    histories[current].states.removeAll { $0.lsn > lsn }
    for index in taken.indices
    where taken[index].history == current && taken[index].manifest.lsn > lsn {
      taken[index].survivedLSN = min(taken[index].survivedLSN ?? lsn, lsn)
    }
  }

  mutating func beginHistory(_ state: SimulationRun.Snapshot) {
    open = nil
    current = histories.count
    histories.append(History(states: [state]))
    fork = nil
  }

  /// Of what was told in the history that is given up.
  mutating func noteTold(_ shown: [String: UInt64], from firstVersion: UInt64) {
    for (sku, version) in shown where version >= firstVersion {
      told.append((sku, firstVersion...version))
    }
  }

  // MARK: Copies

  /// An orderly copy was put back: the same history, from there on another.
  mutating func putBack(_ history: Int, _ state: SimulationRun.Snapshot, endLSN: UInt64) {
    let states = histories[history].states.filter { $0.lsn <= endLSN }
    beginHistory(state)
    histories[current].states = states.isEmpty ? [state] : states
    histories[current].archivedLSN = histories[history].archivedLSN
    histories[current].isLossTold = histories[history].isLossTold
    histories[current].beginsLate = histories[history].beginsLate
    fork = Fork(history: history, state: state, endLSN: endLSN)
  }

  /// The archive goes on with it.
  mutating func acceptFork() {
    guard let fork else { return }
    taken.removeAll { $0.history == fork.history && $0.manifest.lsn > fork.endLSN }
    for index in taken.indices where taken[index].history == fork.history {
      taken[index].history = current
    }
    self.fork = nil
  }

  // MARK: What was archived and taken

  mutating func noteArchived(_ lsn: UInt64) {
    histories[current].archivedLSN = max(histories[current].archivedLSN, lsn)
  }

  mutating func noteEmptyArchive() {
    if taken.contains(where: { $0.history == current }) { histories[current].beginsLate = true }
  }

  mutating func noteLosses() -> Bool {
    let isNew = losses.take() > 0
    if isNew { histories[current].isLossTold = true }
    return isNew
  }

  mutating func add(_ backup: Taken) {
    taken.append(backup)
    if taken.count > Self.takenMax { taken.remove(at: random.number(0...taken.count - 1)) }
  }
}

/// Segments that an archiver has said that it lacks for good, since somebody asked.
final class LossCount: Sendable {
  private let count = Atomic<Int>(0)

  func add(_ segments: Int) { count.add(segments, ordering: .relaxed) }
  func take() -> Int { count.exchange(0, ordering: .relaxed) }
}

/// A disk that a process goes on with when it is there again.
final class ArchiveDisk: Storage, @unchecked Sendable {
  private(set) var disk: SimulatedStorage

  init(_ disk: SimulatedStorage) { self.disk = disk }

  func restart(losingPower: Bool) { disk = disk.restart(losingPower: losingPower) }

  func names() throws(Errno) -> [String] { try disk.names() }
  func open(_ name: String) throws(Errno) -> any StorageFile { try disk.open(name) }
  func create(_ name: String) throws(Errno) -> any StorageFile { try disk.create(name) }
  func rename(_ name: String, to newName: String) throws(Errno) {
    try disk.rename(name, to: newName)
  }
  func remove(_ name: String) throws(Errno) { try disk.remove(name) }
  func syncDirectory() throws(Errno) { try disk.syncDirectory() }
}

/// A directory in the making on a disk of its own.
final class SimulatedDraft: DirectoryDraft {
  let partialPath = "new.partial"
  private(set) var disk: SimulatedStorage

  init(_ disk: SimulatedStorage) { self.disk = disk }

  var storage: any Storage { disk }

  func publish() throws(JournalError) {
    try JournalError.attempt("rename", partialPath) { () throws(Errno) in
      try disk.syncDirectory()
      try disk.publish()
    }
  }

  /// A call on it has failed as it was to.
  var hasMishap: Bool { disk.isDown || disk.hasFailed || disk.refusedForSpaceCount > 0 }

  /// What is there afterwards.
  func restart(losingPower: Bool) { disk = disk.restart(losingPower: losingPower) }
}
