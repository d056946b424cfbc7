// A machine that follows a replicated log and owns it at times: the rules of the log are the real ones, the store is
// a stand-in of four registers, so that a hundred thousand runs take minutes.
internal import Log

/// Four registers and what set them.
struct Registers: Equatable {
  static let count = 4

  private(set) var values = [UInt64](repeating: 0, count: count)

  mutating func apply(_ batch: PlacedBatch) {
    let number = unsafe batch.bytes.loadUnaligned(as: UInt64.self)
    values[Int(number % UInt64(Self.count))] = number
  }

  mutating func apply(_ number: UInt64) { values[Int(number % UInt64(Self.count))] = number }

  init() {}

  init(parts: [UInt8]) {
    values = (0..<Self.count).map { register in
      parts.dropFirst(register * 8).prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
  }

  /// A part for each.
  var parts: [[UInt8]] {
    values.map { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
  }
}

/// What a batch is known by, and says.
struct Entry: Equatable {
  let lsn: UInt64
  let endLSN: UInt64
  let epoch: UInt32
  let mark: UInt64
  let number: UInt64

  init(_ batch: PlacedBatch) {
    lsn = batch.lsn
    endLSN = batch.endLSN
    epoch = batch.epoch
    mark = batch.mark
    number = unsafe batch.bytes.loadUnaligned(as: UInt64.self)
  }
}

/// What a node holds of the log.
struct LogCopy {
  var registers: Registers
  /// Where the checkpoint begins that it was made of.
  let base: UInt64
  var lsn: UInt64
  var last: BatchName?
  /// What was read since.
  var entries: [Entry] = []

  mutating func apply(_ batch: PlacedBatch) {
    registers.apply(batch)
    entries.append(Entry(batch))
    lsn = batch.endLSN
    last = BatchName(lsn: batch.lsn, mark: batch.mark)
  }
}

final class ReplicatedNode: SimulatedNode {
  private enum Role {
    case follower
    case owner(epoch: UInt32)
    /// It has given the log up, and ends when its clients have gone.
    case leaving(until: Int64)
    /// Until then, of true time.
    case down(until: Int64)
  }

  private let number: Int
  private unowned let run: ReplicatedRun
  private let clock: (offset: Int64, rate: Double)
  private var cluster: EngineCluster { run.cluster }
  private var name = ""
  private var role = Role.down(until: 0)
  private var engine: SimulatedEngine
  private var log: EngineLog<SimulatedEngine>
  private var copy: LogCopy?
  private var watch: OwnerWatch
  /// A call of its is under way.
  private(set) var isBusy = false
  private var isCarrying = false
  private var doubtsCounted: UInt64 = 0

  init(_ number: Int, _ run: ReplicatedRun, clock: (offset: Int64, rate: Double)) {
    self.number = number
    self.run = run
    self.clock = clock
    engine = SimulatedEngine(run.cluster, node: number, options: run.options, clock: clock)
    log = EngineLog(engine: engine, options: run.options)
    watch = OwnerWatch(lease: run.options.leaseNanoseconds)
  }

  private func tell(_ text: @autoclosure () -> String) { cluster.tell("\(name): \(text())") }

  // MARK: A process

  private func start() {
    let (incarnation, options) = run.troubles.nextIncarnation()
    name = "node \(number).\(incarnation)"
    engine = SimulatedEngine(cluster, node: number, options: options, clock: clock)
    log = EngineLog(engine: engine, options: options)
    watch = OwnerWatch(lease: options.leaseNanoseconds, fault: options.fault)
    doubtsCounted = 0
    role = .follower
    // Its disk may be gone with it.
    if cluster.random.chance(30) { copy = nil }
  }

  /// What is sent goes on; what is answered is heard by nobody.
  private func end(_ why: String) {
    tell(why)
    cluster.counts[.doubts] += Int(log.doubts - doubtsCounted)
    log.close()
    role = .down(until: cluster.now + cluster.random.number(10...3_000) * EngineCluster.millisecond)
  }

  /// Is killed, also in the middle of a call.
  func crash() {
    if case .down = role { return }
    cluster.counts[.crashes] += 1
    end("is killed")
  }

  func step() {
    guard !isBusy else { return }
    isBusy = true
    defer { isBusy = false }
    do throws(JournalError) {
      switch role {
      case .down(let until): if cluster.now >= until { start() }
      case .follower: try follow()
      case .owner(let epoch): try own(epoch)
      case .leaving(let until): if cluster.now >= until { end("has given the log up") }
      }
    } catch .unreachable {
      // Tried again.
    } catch .fenced(let epoch) {
      if case .owner(let own) = role { run.fenced(own, by: epoch) }
      cluster.counts[.fenced] += 1
      end("is fenced by epoch \(epoch)")
    } catch {
      run.found("nothing is lost or changed", "\(name): \(error)")
    }
  }

  // MARK: Following

  private func follow() throws(JournalError) {
    let state = try log.state()
    // When the answer has come, not when it was asked.
    watch.note(state, at: engine.now())
    if state.hasBegun { while try copySome(), cluster.random.chance(50) {} }
    guard let seen = watch.seen, watch.isOver(engine.now()) else {
      if cluster.random.chance(2) { try log.want() }
      return
    }
    let before = run.truth.answeredLSN
    guard let taken = try log.take(after: seen, owner: name, address: "") else {
      cluster.counts[.takesFailed] += 1
      return
    }
    cluster.counts[.takes] += 1
    tell("has taken the log: epoch \(taken.epoch), end \(taken.endLSN)")
    run.took(taken.epoch, name)
    role = .owner(epoch: taken.epoch)
    try takeOver(taken, before)
  }

  /// False: there was nothing new.
  private func copySome() throws(JournalError) -> Bool {
    guard copy != nil else {
      try makeAnew()
      return copy != nil
    }
    let begin = copy?.lsn ?? 0
    do throws(JournalError) {
      let next = try log.read(from: begin, behind: copy?.last, bytesMax: 64) {
        (batch) throws(JournalError) in self.copy?.apply(batch)
      }
      return next > begin
    } catch .takenBack {
      cluster.counts[.phantoms] += 1
      copy = nil
      return true
    } catch .trimmed {
      copy = nil
      return true
    } catch {
      throw error
    }
  }

  private func makeAnew() throws(JournalError) {
    // A server of the past may have none yet.
    guard let newest = try log.checkpoints().last else { return }
    var parts: [UInt8] = []
    do throws(JournalError) {
      try unsafe log.getCheckpoint(newest) { bytes in unsafe parts += bytes }
    } catch .trimmed {
      return
    } catch {
      throw error
    }
    guard parts.count == Registers.count * 8 else {
      return run.found("a checkpoint is whole", "\(name): \(parts.count) bytes of \(newest)")
    }
    cluster.counts[.madeAnew] += 1
    copy = LogCopy(registers: Registers(parts: parts), base: newest.lsn, lsn: newest.lsn)
    tell("has a new copy from \(newest.lsn) on")
  }

  // MARK: Owning

  /// - Parameter before: up to there something was answered before the log was taken.
  private func takeOver(_ taken: LogState, _ before: UInt64) throws(JournalError) {
    if !taken.hasBegun {
      copy = LogCopy(registers: Registers(), base: 64, lsn: 64)
      var parts = Registers().parts
      parts.reverse()
      do throws(JournalError) {
        try log.begin(at: 64, epoch: taken.epoch) { parts.popLast() }
      } catch .unreachable {
        return end("could not begin the log")
      } catch {
        throw error
      }
      run.tookOver(LogCopy(registers: Registers(), base: 64, lsn: 64), before, name)
      return
    }
    while true {
      if case .down = role { return }
      do throws(JournalError) {
        while try copySome() {}
        guard let copy else { continue }
        if try log.ends(at: copy.lsn, behind: copy.last, epoch: taken.epoch) { break }
      } catch .unreachable {
        continue
      } catch {
        throw error
      }
      tell("its copy up to \(copy?.lsn ?? 0) is another one, of \(taken.endLSN)")
      copy = nil
    }
    if case .down = role { return }
    guard let copy else { return }
    tell("serves from \(copy.lsn) on")
    run.tookOver(copy, before, name)
    self.copy?.entries = []
  }

  private func own(_ epoch: UInt32) throws(JournalError) {
    switch cluster.random.number(0...99) {
    case ..<50: try append(epoch)
    case ..<70: try log.beat(epoch: epoch)
    case ..<73:
      try release(epoch)
    case ..<78:
      if try log.state().isWanted { try release(epoch) }
    default: break
    }
  }

  private func release(_ epoch: UInt32) throws(JournalError) {
    cluster.counts[.released] += 1
    try log.release(epoch: epoch)
    if case .down = role { return }
    tell("gives the log up")
    role = .leaving(
      until: cluster.now + cluster.random.number(0...500) * EngineCluster.millisecond)
  }

  private func append(_ epoch: UInt32) throws(JournalError) {
    guard let copy else { return }
    var bytes = [UInt8](repeating: 0, count: 8)
    let number: UInt64 = cluster.random.next()
    for index in 0..<8 { bytes[index] = UInt8(truncatingIfNeeded: number >> (index * 8)) }
    let count = cluster.random.pick([64, 64, 128])
    let mark: UInt64 = cluster.random.next()
    try unsafe bytes.span.withUnsafeBytes { (bytes) throws(JournalError) in
      let batch = unsafe PlacedBatch(
        lsn: copy.lsn, byteCount: count, epoch: epoch, sequence: 1, offset: 0, mark: mark,
        bytes: bytes)
      try log.append(batch)
      // A process that was killed has answered nobody.
      if case .down = role { return }
      cluster.counts[.appends] += 1
      self.copy?.apply(batch)
      self.copy?.entries = []
      run.answered(Entry(batch), name)
      tell("has appended \(batch.lsn) to \(batch.endLSN)")
    }
  }

  // MARK: Beside the log's thread

  /// Somebody asks what is in a register. Also while an append waits: others than its thread answer.
  func read() {
    guard let copy, run.serves(name) else { return }
    switch role {
    case .owner, .leaving: break
    case .follower, .down: return
    }
    let leaseEnd = log.leaseEnd
    guard leaseEnd != .min, engine.now() < leaseEnd else {
      cluster.counts[.readsRefused] += 1
      if copy.lsn < run.truth.answeredLSN { cluster.counts[.readsOfStale] += 1 }
      return
    }
    cluster.counts[.reads] += 1
    run.wasRead(copy, name)
  }

  /// What the carrier of checkpoints does.
  func carry() {
    guard case .owner = role, let copy, run.serves(name), !isCarrying else { return }
    // Of the process that it begins in.
    let log = log
    isCarrying = true
    defer { isCarrying = false }
    var parts = Array(copy.registers.parts.reversed())
    do throws(JournalError) {
      if run.options.fault == .trimBeforeCheckpoint { try log.trim(before: copy.lsn) }
      if try log.checkpoints().last?.lsn ?? 0 < copy.lsn {
        try log.putCheckpoint(copy.lsn) { parts.popLast() }
        cluster.counts[.checkpoints] += 1
      }
      let kept = try log.checkpoints()
      for old in kept.dropLast(run.keptCheckpoints) { try log.removeCheckpoint(old) }
      if let oldest = kept.suffix(run.keptCheckpoints).first { try log.trim(before: oldest.lsn) }
    } catch {
      cluster.counts[.checkpointsFailed] += 1
    }
  }

  /// Owns the log, and serves.
  var isServing: Bool { if case .owner = role { run.serves(name) } else { false } }
}
