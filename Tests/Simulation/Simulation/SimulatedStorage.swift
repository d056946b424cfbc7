package import Log
// A disk in memory, at the mercy of a seed. What it may do, and why the journal must survive it:
//
// When the power fails,
//   - a write that was not synced is kept, dropped or torn, whatever became of others before and after
//     it: drives and kernels write when and in which order they like. It is torn between sectors, which
//     is how drives write, and between bytes, since nobody promises more;
//   - a file that such a write made longer is as long as before or longer, with zeros where nothing was
//     written: file systems keep lengths and bytes apart;
//   - a file that was created, renamed or removed since the directory was synced is there or is not, each
//     by itself: names are another structure on the disk. A rename is done or not, never half.
//   What was synced stays, and bytes that no write touched are never harmed: without that nothing can be
//   kept at all.
// When the process is killed, all that it wrote stays visible, and at the mercy of the next power cut.
// A crash may come before, in the middle of, or right after any call that changes something; from then on
// every call fails, and nothing reaches the disk: a process does not know that it is dead.
// EIO comes from any such call, and
//   - a failed write has written none, some or all of its bytes;
//   - a failed sync has lost some of what it should have synced, for good: the kernel reports this once,
//     takes the pages for clean and goes on showing them, to the process that is started next as well, so
//     that a second sync that succeeds proves nothing;
//   - a failed change of the directory was made or not, and is not lost by a failed sync: a file system
//     that cannot write its own structures stops.
// ENOSPC comes from creating files, and from writes that make a file longer, until there is space again:
// the journal has to do without, and must not need a restart when space is back.
//
// The directory itself may be one in the making, which is renamed when it is whole: in another directory, by a
// change of the same kind.
//
// Not injected: reads that fail or give other bytes than were written (bit flips over a whole directory
// are a test of their own), and writes that destroy other bytes than theirs.
package import Posix

#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// What happens at one of the calls that change something.
package struct FaultPlan: Equatable, Sendable {
  package enum Fault: Equatable, Sendable {
    case crashBefore
    case crashDuring
    case crashAfter
    /// EIO.
    case error
  }

  /// The calls that count.
  package enum Scope: Equatable, Sendable {
    case all
    /// Those that create, rename or remove files or sync the directory.
    case directory
    /// All while there is a file of this name.
    case whileThereIs(String)
  }

  /// How many calls of the scope are left, with the one where it happens; 0: it happens never.
  package var calls: Int
  package var scope: Scope
  package var fault: Fault

  package init(calls: Int, scope: Scope = .all, fault: Fault) {
    self.calls = calls
    self.scope = scope
    self.fault = fault
  }

  /// Nothing ever happens.
  package static let none = FaultPlan(calls: 0, fault: .error)
}

/// For one thread at a time; a second one may read beside it.
package final class SimulatedStorage: Storage, @unchecked Sendable {
  private enum Change {
    case add(String, SimulatedContents)
    case rename(SimulatedContents, from: String, to: String)
    case remove(String, SimulatedContents)
  }

  private var visible: [String: SimulatedContents] = [:]
  private var durable: [String: SimulatedContents] = [:]
  /// Of the directory, in their order.
  private var unsynced: [Change] = []
  private var random: SeededRandom
  /// Whether the directory has its own name: as a process sees it, and as the disk has it.
  package private(set) var hasName = false
  private var hasNameDurably = false

  package var plan = FaultPlan.none
  /// More bytes than these in all files together give ENOSPC.
  package var bytesMax = Int.max
  /// All writes give ENOSPC after some of their bytes, also where the file does not grow: so does a file
  /// system that writes elsewhere than where the bytes were.
  package var refusesWrites = false
  /// Calls so far that change something or would have.
  package private(set) var callCount = 0
  /// How often ENOSPC was given.
  package private(set) var refusedForSpaceCount = 0
  /// Crashed: every call fails.
  package private(set) var isDown = false
  /// The planned error was given.
  package private(set) var hasFailed = false
  /// Told of every call that changes something, in words.
  package var trace: ((String) -> Void)?

  package init(random: SeededRandom) { self.random = random }

  /// A disk with these files, all of it synced.
  package init(files: [String: [UInt8]], random: SeededRandom = SeededRandom(seed: 0)) {
    self.random = random
    for (name, bytes) in files { visible[name] = SimulatedContents(bytes) }
    durable = visible
  }

  /// All files as a process sees them.
  package var files: [String: [UInt8]] { visible.mapValues(\.visible) }

  /// Whether there is a file of this name.
  package func hasFile(_ name: String) -> Bool { visible[name] != nil }

  /// Bytes of all files.
  package var byteCount: Int { visible.values.reduce(0) { $0 + $1.visible.count } }

  /// What the next process finds. Every call to this one fails from here on.
  package func restart(losingPower: Bool) -> SimulatedStorage {
    isDown = true
    let next = SimulatedStorage(random: random.split())
    if losingPower { losePower() }
    next.visible = visible
    next.durable = durable
    next.unsynced = unsynced
    (next.hasName, next.hasNameDurably) = (hasName, hasNameDurably)
    return next
  }

  private func losePower() {
    var random = random.split()
    let mood = Mood(random: &random)
    for change in unsynced where mood.keeps(&random) { settle(change) }
    unsynced = []
    if hasName, !hasNameDurably { hasName = mood.keeps(&random) }
    hasNameDurably = hasName
    for name in durable.keys.sorted() { durable[name]?.losePower(mood, &random) }
    visible = durable
  }

  // MARK: Storage

  package func names() throws(Errno) -> [String] {
    try requirePower()
    // No order is promised.
    var order = SeededRandom(seed: UInt64(callCount))
    return visible.keys.sorted().shuffled(using: &order)
  }

  package func open(_ name: String) throws(Errno) -> any StorageFile {
    try requirePower()
    guard let contents = visible[name] else { throw Errno(code: ENOENT) }
    return SimulatedFile(self, contents, name)
  }

  package func create(_ name: String) throws(Errno) -> any StorageFile {
    let contents = SimulatedContents([])
    try perform("create \(name)") { () throws(Errno) in
      if byteCount >= bytesMax { throw outOfSpace() }
      visible[name] = contents
      unsynced.append(.add(name, contents))
    }
    return SimulatedFile(self, contents, name)
  }

  package func rename(_ name: String, to newName: String) throws(Errno) {
    try perform("rename \(name) to \(newName)") { () throws(Errno) in
      guard let contents = visible.removeValue(forKey: name) else { throw Errno(code: ENOENT) }
      visible[newName] = contents
      unsynced.append(.rename(contents, from: name, to: newName))
    }
  }

  package func remove(_ name: String) throws(Errno) {
    try perform("remove \(name)") { () throws(Errno) in
      guard let contents = visible.removeValue(forKey: name) else { throw Errno(code: ENOENT) }
      unsynced.append(.remove(name, contents))
    }
  }

  package func syncDirectory() throws(Errno) {
    try perform("sync the directory", ofDirectory: true) {
      for change in unsynced { settle(change) }
      unsynced = []
    } partly: {
      let done = unsynced.map { _ in random.chance(50) }
      for (change, isDone) in zip(unsynced, done) where isDone { settle(change) }
      unsynced = zip(unsynced, done).filter { !$0.1 }.map(\.0)
    }
  }

  /// Gives the directory its name, and syncs the one that it is in.
  package func publish() throws(Errno) {
    try perform("rename the directory") { hasName = true }
    try perform("sync its parent", ofDirectory: true) {
      hasNameDurably = hasName
    } partly: {
      if random.chance(50) { hasNameDurably = hasName }
    }
  }

  /// The same files, for somebody who reads them beside the process that has them: as long as one is open, that
  /// does not use it again.
  package var reader: any Storage { SimulatedReader(self) }

  fileprivate func openToRead(_ name: String) throws(Errno) -> any StorageFile {
    try requirePower()
    guard let contents = visible[name] else { throw Errno(code: ENOENT) }
    return SimulatedFile(self, contents, name, isReader: true)
  }

  /// Makes a change of the directory durable. A file has one name: where a rename before it was lost,
  /// the file is still at its first.
  private func settle(_ change: Change) {
    switch change {
    case .add(let name, let contents): durable[name] = contents
    case .rename(let contents, _, let newName):
      for (name, other) in durable where other === contents { durable[name] = nil }
      durable[newName] = contents
    case .remove(let name, let contents):
      if durable[name] === contents { durable[name] = nil }
    }
  }

  // MARK: Faults

  fileprivate func requirePower() throws(Errno) {
    if isDown { throw Errno(code: EIO) }
  }

  /// Changes the directory by `act`, unless the plan has something else in mind.
  private func perform(
    _ name: @autoclosure () -> String, _ act: () throws(Errno) -> Void
  ) throws(Errno) {
    try perform(name(), ofDirectory: true, act) { if random.chance(50) { try? act() } }
  }

  /// Does `act`, likewise.
  /// - Parameter partly: what is left of it where it fails.
  private func perform(
    _ name: @autoclosure () -> String, ofDirectory: Bool, _ act: () throws(Errno) -> Void,
    partly: () -> Void
  ) throws(Errno) {
    try requirePower()
    callCount += 1
    if let trace { trace("call \(callCount): \(name())") }
    guard isPlanned(ofDirectory: ofDirectory) else { return try act() }
    switch plan.fault {
    case .crashBefore: break
    case .crashDuring: partly()
    case .crashAfter: try? act()
    case .error:
      partly()
      hasFailed = true
    }
    isDown = plan.fault != .error
    if let trace { trace("  \(plan.fault)") }
    throw Errno(code: EIO)
  }

  /// Whether this is the call that the plan is for.
  private func isPlanned(ofDirectory: Bool) -> Bool {
    if plan.calls == 0 { return false }
    switch plan.scope {
    case .all: break
    case .directory: if !ofDirectory { return false }
    case .whileThereIs(let name): if visible[name] == nil { return false }
    }
    plan.calls -= 1
    return plan.calls == 0
  }

  private func outOfSpace() -> Errno {
    refusedForSpaceCount += 1
    return Errno(code: ENOSPC)
  }

  // MARK: Files

  fileprivate func write(
    _ bytes: [UInt8], to contents: SimulatedContents, at offset: Int, _ name: String
  ) throws(Errno) {
    try perform("write \(bytes.count) bytes to \(name) at \(offset)", ofDirectory: false) {
      () throws(Errno) in
      let growth = max(0, offset + bytes.count - contents.visible.count)
      if refusesWrites {
        contents.write(Array(bytes.prefix(random.number(0...bytes.count))), at: offset)
        throw outOfSpace()
      }
      // Without a limit nobody need add up the files.
      if growth > 0, bytesMax != .max, byteCount + growth > bytesMax { throw outOfSpace() }
      contents.write(bytes, at: offset)
    } partly: {
      contents.write(Array(bytes.prefix(random.number(0...bytes.count))), at: offset)
    }
  }

  fileprivate func sync(_ contents: SimulatedContents, _ name: String) throws(Errno) {
    try perform("sync \(name)", ofDirectory: false) {
      contents.sync()
    } partly: {
      contents.syncPartly(isLosing: plan.fault == .error, &random)
    }
  }
}

/// A file in use. Lives on when its name is gone, as files do.
private final class SimulatedFile: StorageFile, @unchecked Sendable {
  private let storage: SimulatedStorage
  private let contents: SimulatedContents
  private let name: String
  private let isReader: Bool

  init(
    _ storage: SimulatedStorage, _ contents: SimulatedContents, _ name: String,
    isReader: Bool = false
  ) {
    self.storage = storage
    self.contents = contents
    self.name = name
    self.isReader = isReader
    if isReader { contents.readers += 1 }
  }

  deinit { if isReader { contents.readers -= 1 } }

  func takeForReuse() -> Bool { contents.readers == 0 }

  func byteCount() throws(Errno) -> Int {
    try storage.requirePower()
    return contents.visible.count
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(Errno) -> Int {
    try storage.requirePower()
    return unsafe contents.read(into: buffer, at: offset)
  }

  func write(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer,
    _ third: UnsafeRawBufferPointer, at offset: Int
  ) throws(Errno) {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(first.count + second.count + third.count)
    unsafe bytes.append(contentsOf: first)
    unsafe bytes.append(contentsOf: second)
    unsafe bytes.append(contentsOf: third)
    try storage.write(bytes, to: contents, at: offset, name)
  }

  func sync() throws(Errno) { try storage.sync(contents, name) }
}

private final class SimulatedReader: Storage, @unchecked Sendable {
  private let storage: SimulatedStorage

  init(_ storage: SimulatedStorage) { self.storage = storage }

  func names() throws(Errno) -> [String] { try storage.names() }
  func open(_ name: String) throws(Errno) -> any StorageFile { try storage.openToRead(name) }
  func create(_ name: String) throws(Errno) -> any StorageFile { throw .readOnly }
  func rename(_ name: String, to newName: String) throws(Errno) { throw .readOnly }
  func remove(_ name: String) throws(Errno) { throw .readOnly }
  func syncDirectory() throws(Errno) { throw .readOnly }
}
