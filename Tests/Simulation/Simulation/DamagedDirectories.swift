internal import Log
// A data directory with a known history, doctored: single bits flipped, or the last group cut short at
// some byte. Whoever opens it must come to a state of that history, and to the newest one unless the end
// is torn; or must refuse. Nothing else: no trap, no hang, no other state, nothing lost in silence.
internal import Posix
internal import StockStore
internal import StorePersistence

package struct RecordedDirectory: Sendable {
  /// How many flipped bits are tried on one directory.
  package static let flips = 1000

  private let seed: UInt64
  /// The directory at the end, everything synced.
  private let files: [String: [UInt8]]
  /// Without the last group.
  private let filesBefore: [String: [UInt8]]
  /// The state at the end of every group.
  private let digests: [UInt64: StateDigest]
  /// Up to here, no other states there were.
  private let digestsLSN: UInt64
  /// The end of the journal, and of the group before the last.
  private let lastLSN: UInt64
  private let lsnBefore: UInt64
  private let settings: RunSettings

  /// A run without mishaps but for a few kills, so that there are several runs in the journal.
  package init(seed: UInt64) throws(Violation) {
    self.seed = seed
    let run = SimulationRun(history: seed)
    try run.run()
    settings = run.settings
    digests = run.history
    digestsLSN = run.historyLSN
    (filesBefore, lsnBefore) = run.ending
    files = run.storage.files
    lastLSN = run.promisedLSN
    tail = Self.tail(filesBefore, files)
    tornLengths = tail.map { 0..<$0.range.count + 1 } ?? 0..<0
  }

  /// Names in order, so that a seed finds the same bytes.
  private var names: [String] { files.keys.sorted() }

  /// Flips one bit, chosen by `random`, and opens the directory.
  package func openWithFlippedBit(_ random: inout SeededRandom) throws(Violation) {
    let name = random.pick(names)
    guard var bytes = files[name], !bytes.isEmpty else { return }
    var offset = random.number(0...bytes.count - 1)
    // Most zeros are bytes that nobody reads.
    for _ in 0..<3 where bytes[offset] == 0 { offset = random.number(0...bytes.count - 1) }
    let bit = random.number(0...7 as ClosedRange<UInt8>)
    bytes[offset] ^= 1 << bit
    var doctored = files
    doctored[name] = bytes
    try open(doctored, "bit \(bit) of byte \(offset) of \(name) flipped")
  }

  /// Flips each bit of the last group's header, one at a time.
  package func openWithFlippedHeaders() throws(Violation) {
    guard let tail, let whole = files[tail.name] else { return }
    // Headers begin at multiples of 8, and the first bytes of this one may be as they were before.
    let start = tail.range.lowerBound / 8 * 8
    for bit in 0..<48 * 8 {
      var bytes = whole
      bytes[start + bit / 8] ^= 1 << UInt8(bit % 8)
      var doctored = files
      doctored[tail.name] = bytes
      try open(doctored, "bit \(bit) of the last group's header flipped")
    }
  }

  /// How many bytes the last group may be cut to: all of these can be given to `openWithTornTail`.
  package let tornLengths: Range<Int>
  private let tail: (name: String, range: Range<Int>)?

  /// Keeps only the first `length` bytes of what the last group has changed, and opens the directory.
  package func openWithTornTail(length: Int) throws(Violation) {
    guard let tail, var bytes = filesBefore[tail.name], let whole = files[tail.name] else { return }
    let kept = tail.range.prefix(length)
    bytes.replaceSubrange(kept, with: whole[kept])
    var doctored = files
    doctored[tail.name] = bytes
    // Less than a header may be what was left of an earlier use of the segment.
    try open(
      doctored, "the last group cut to \(length) of \(tail.range.count) bytes",
      isReported: length >= 48)
  }

  /// Where the last group has changed the directory: the bytes from the first to the last that differ.
  private static func tail(
    _ before: [String: [UInt8]], _ after: [String: [UInt8]]
  ) -> (name: String, range: Range<Int>)? {
    for name in after.keys.sorted() {
      guard let old = before[name], let new = after[name], old != new,
        let first = zip(old, new).enumerated().first(where: { $1.0 != $1.1 })?.offset,
        let last = zip(old, new).enumerated().reversed().first(where: { $1.0 != $1.1 })?.offset
      else { continue }
      return (name, first..<last + 1)
    }
    return nil
  }

  /// - Parameter isReported: where the last group is lost, that must be said.
  private func open(
    _ files: [String: [UInt8]], _ what: String, isReported: Bool = true
  ) throws(Violation) {
    let storage = SimulatedStorage(files: files)
    let summary: RecoverySummary
    do throws(JournalError) {
      summary = try openSoundly(storage)
    } catch .damaged(let damage) {
      if let lsn = damage.lsn { try repair(storage, at: lsn, what) }
      return
    } catch {
      throw violation(what, "a state, or damage", "\(error)")
    }
    let isWhole = summary.lsn == lastLSN
    guard isWhole || summary.lsn == lsnBefore && (summary.tornBytes > 0 || !isReported) else {
      throw violation(
        what, "the state at \(lastLSN), or a torn tail after \(lsnBefore)",
        "\(summary.lsn), \(summary.tornBytes) bytes torn")
    }
    try compare(summary.lsn, summary.digest, what)
  }

  /// Does what the damage says: gives up what is behind `lsn`, and opens what is left.
  private func repair(
    _ storage: SimulatedStorage, at lsn: UInt64, _ what: String
  ) throws(Violation) {
    let report: RepairReport
    let summary: RecoverySummary
    do throws(JournalError) {
      report = try Repair.truncate(storage: storage, at: lsn, nonce: 1)
      summary = try openSoundly(storage)
    } catch {
      throw violation("\(what), repaired at \(lsn)", "a state", "\(error)")
    }
    guard summary.lsn == lsn else {
      throw violation("\(what), repaired at \(lsn)", "the state there", "\(summary.lsn)")
    }
    try compare(lsn, report.digest, "\(what), repaired")
  }

  /// Opens a store and audits it.
  private func openSoundly(
    _ storage: SimulatedStorage
  ) throws(JournalError) -> RecoverySummary {
    let (store, summary) = try StockStore.open(
      storage: storage, limits: settings.limits, options: settings.options, secret: (1, 2),
      makeClock: { SimulatedClock($0.nanoseconds) }, progress: { _ in })
    if let finding = store.audit().first { throw .unsuitable("audit: \(finding)") }
    return summary
  }

  private func compare(
    _ end: UInt64, _ digest: StateDigest?, _ what: String
  ) throws(Violation) {
    // Between two states lie only records of the time.
    let lsn = digests.keys.filter { $0 <= end }.max() ?? 0
    if lsn != end && end > digestsLSN { return }
    if digest != digests[lsn], lsn > 0 {
      throw violation(
        what, "digest \(digests[lsn]?.description ?? "") at \(end)",
        "\(digest?.description ?? "none")")
    }
  }

  private func violation(_ what: String, _ expected: String, _ seen: String) -> Violation {
    Violation(
      seed: seed, step: 0, expected: "\(what): \(expected)", seen: seen,
      arguments: "--bit-flips \(Self.flips) --first-seed \(seed)")
  }
}
