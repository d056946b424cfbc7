// What a reserve chose, over restarts: the first answer is the same again.
import Log
import LogFixtures
import Posix
import Simulation
import Testing

@testable import StockStore
@testable import StorePersistence

@Suite("Choices on the disk")
struct ChoiceTests {
  private static func line(_ sku: String, _ quantity: Int64, _ minimum: Int64 = 0) -> TestLine {
    TestLine(sku: sku, quantity: quantity, minimum: minimum)
  }

  private struct Command {
    var key: String
    var lines: [TestLine]
    var alternatives: [[TestLine]]

    init(_ key: String, _ lines: [TestLine], or alternatives: [TestLine]...) {
      self.key = key
      self.lines = lines
      self.alternatives = alternatives
    }
  }

  private static let seats = (0..<64).map { line("seat\($0)", 1) }
  private static let much = line("a", 1000)

  private static let commands: [Command] = [
    Command("plain", [line("a", 1)]),
    Command("as asked", [line("a", 1)], or: [line("b", 1)]),
    Command("second", [much], or: [line("b", 1)]),
    Command("second of 4", [much], or: [line("a", 1), line("b", 1), line("c", 1), line("d", 1)]),
    Command("less", [line("c", 9, 1)]),
    Command("less of 5", (["a", "b", "d", "e", "f"]).map { line($0, 2, 1) }),
    Command("all", [much], or: [line("zz", 1)], seats.map { line($0.sku, 5, 1) }),
    Command("replaced", [much], or: [line("a", 3, 2), line("b", 2)]),
    Command("replaced twice", [line("a", 3, 3)]),
    Command("replaced plain", [much], or: [line("b", 2)]),
    Command("sold in part", [line("d", 3, 1), line("e", 1)]),
    Command("sold", [line("d", 3, 1)]),
    Command("taken again", [line("e", 4, 1)]),
    Command("released", [line("f", 4, 1)]),
    Command("refused", [much], or: [line("b", 1000, 999)], [much]),
    Command("refused twice over", [much, line("b", 1000)], or: [much]),
    Command("refused for little", [line("a", 1000, 999)]),
    Command("unknown", [line("a", 1), line("zz", 1)], or: [line("yy", 1)]),
  ]

  private func answers(
    _ running: JournaledStore, isReplay: Bool
  ) throws -> [String: Model.Answer] {
    let session = running.session
    var answers: [String: Model.Answer] = [:]
    for command in Self.commands {
      // The ring is small.
      try running.stepAll()
      let decision = session.reserve(
        command.key, command.lines, alternatives: command.alternatives, reference: command.key)
      #expect(decision.replayed == isReplay, "\(command.key)")
      // But for what becomes of the hold: the id, what was chosen, and the refusal.
      var answer = session.answer(decision)
      if case .hold(let id, let expiresAt, _, _, let chosen) = answer {
        answer = .hold(
          id: id, expiresAt: expiresAt, state: .held, remaining: 0, chosen: chosen)
      }
      answers[command.key] = answer
    }
    return answers
  }

  private func id(_ answer: Model.Answer?) throws -> ReservationID {
    guard case .hold(let id, _, _, _, _)? = answer else { throw Refused() }
    return id
  }

  private struct Refused: Error {}

  private func change(_ session: StoreSession, _ answers: [String: Model.Answer]) throws {
    typealias Replacement = Model.Replacement
    let replaced = try id(answers["replaced"])
    _ = session.replace("r1", Replacement(replaced, [Self.line("a", 1)]))
    let twice = try id(answers["replaced twice"])
    _ = session.replace("r2", Replacement(twice, (0..<6).map { Self.line("g\($0)", 1) }))
    _ = session.replace("r3", Replacement(twice, [Self.line("b", 1)]))
    let plain = try id(answers["replaced plain"])
    _ = session.replace("r4", Replacement(plain, (0..<6).map { Self.line("g\($0)", 1) }))
    #expect(session.confirm(try id(answers["sold in part"]), [Self.line("d", 1)]).value != nil)
    #expect(session.confirm(try id(answers["sold"])).value != nil)
    #expect(session.release(try id(answers["released"])).value != nil)
  }

  /// From the journal alone, from a checkpoint alone, and from both.
  @Test(arguments: ["journal", "checkpoint", "both"], ConcurrencyControl.sound)
  func sameAgain(_ how: String, _ concurrency: ConcurrencyControl) throws {
    let running = try JournaledStore(testLimits(items: 300), seed: 9, concurrency)
    _ = running.session.beginTurn()
    for sku in ["a", "b", "c", "d", "e", "f"] + (0..<6).map({ "g\($0)" }) {
      _ = running.session.adjust("put \(sku)", sku, .setOnHand(sku == "c" ? 4 : 40))
    }
    for seat in Self.seats {
      _ = running.session.adjust("put \(seat.sku)", seat.sku, .delta(1))
      try running.stepAll()
    }
    let first = try answers(running, isReplay: false)
    running.session.endTurn()
    try running.settle()
    if how == "both" { try running.makeCheckpoint {} }
    _ = running.session.beginTurn()
    try change(running.session, first)
    running.session.endTurn()
    running.clock.advance(byNanoseconds: seconds(700))
    _ = running.session.beginTurn()
    let expired = try id(first["taken again"])
    #expect(running.session.confirm(expired, [Self.line("e", 1)], reacquire: true).value != nil)
    #expect(try answers(running, isReplay: true) == first)
    running.session.endTurn()
    try running.settle()
    if how == "checkpoint" { try running.makeCheckpoint {} }
    let digest = running.digest
    for _ in 0..<2 {
      try running.restart()
      #expect(running.digest == digest)
      _ = running.session.beginTurn()
      #expect(try answers(running, isReplay: true) == first)
      #expect(running.store.audit() == [])
      running.session.endTurn()
      try running.settle()
    }
    let told = try ["second", "less", "all"].map { key in
      guard case .hold(_, _, _, _, let chosen)? = first[key] else { throw Refused() }
      return (key, chosen)
    }
    for (key, chosen) in told {
      switch key {
      case "second": #expect(chosen == Model.Chosen(alternative: 1))
      case "less": #expect(chosen.alternative == 0 && chosen.lines == [2: 3])
      default: #expect(chosen.alternative == 2 && chosen.lines.count == 64)
      }
    }
  }

  @Test("The dump tells it")
  func dump() throws {
    let running = try JournaledStore(testLimits(items: 300), seed: 9)
    _ = running.session.beginTurn()
    for sku in ["a", "b"] { _ = running.session.adjust("put \(sku)", sku, .setOnHand(4)) }
    for command in [
      Command("plain", [Self.line("a", 1)], or: [Self.line("b", 1)]),
      Command("other", [Self.much], or: [Self.line("b", 9, 1)]),
      Command("none", [Self.much], or: [Self.line("b", 9)]),
    ] {
      _ = running.session.reserve(
        command.key, command.lines, alternatives: command.alternatives)
    }
    running.session.endTurn()
    try running.settle()
    var lines: [String] = []
    try StockStore.dump(storage: running.copyOfFiles()) { lines.append($0) }
    func line(_ key: String) -> String { lines.first { $0.contains("\"key\":\"\(key)\"") } ?? "" }
    #expect(line("plain").contains("\"kind\":\"held\"") && !line("plain").contains("alternative"))
    #expect(!line("plain").contains("minimum"))
    #expect(
      line("other").contains("\"alternative\":1") && line("other").contains("\"minimum\":\"yes\""))
    #expect(line("none").contains("\"alternatives\":2"))
  }

  /// The slot of a hold that told its lines, and what of it cannot be.
  @Test(
    "Forged choices",
    arguments: [
      // No choice, an unknown alternative, unknown bits; first lines of one that told none, more than there are.
      Forgery(offset: 72, byteCount: 1, value: 0), Forgery(offset: 72, byteCount: 1, value: 0x19),
      Forgery(offset: 72, byteCount: 1, value: 0x31), Forgery(offset: 73, byteCount: 1, value: 3),
      Forgery(offset: 73, byteCount: 1, value: 255), Forgery(offset: 74, byteCount: 1, value: 1),
      Forgery(offset: 72, byteCount: 2, value: 0x0101), Forgery(offset: 3, byteCount: 1, value: 4),
      // A first line of no units, of too many, of an item that is not there.
      Forgery(offset: 72 + 8 + 16 + 8, byteCount: 8, value: 0),
      Forgery(offset: 72 + 8 + 16 + 8, byteCount: 8, value: 1 << 49),
      Forgery(offset: 72 + 8 + 16, byteCount: 4, value: 5000),
    ])
  func forged(_ forgery: Forgery) throws {
    let running = try JournaledStore(testLimits(items: 300), seed: 9)
    _ = running.session.beginTurn()
    _ = running.session.adjust("put", "a", .setOnHand(4))
    let hold = try #require(
      running.session.reserve(
        "k", [Self.line("a", 9)], alternatives: [[Self.line("a", 9, 2)]]
      ).value)
    #expect(running.session.confirm(hold.id, [Self.line("a", 1)]).value != nil)
    running.session.endTurn()
    try running.settle()
    try running.makeCheckpoint {}
    var files = running.copyOfFiles().files
    let name = try #require(files.keys.filter { FileNames.checkpointLSN($0) != nil }.max())
    var bytes = try #require(files[name])
    let slot = try #require(CheckpointBytes.slots(bytes)[.confirmedInPart])
    #expect(Array(bytes[slot + 72..<slot + 80]) == [0x11, 1, 0, 0, 0, 0, 0, 0])
    #expect(try StockStore.verify(storage: SimulatedStorage(files: files)).decisions == 3)
    CheckpointBytes.put(forgery.value, forgery.byteCount, at: slot + forgery.offset, &bytes)
    CheckpointBytes.repairChecksums(&bytes)
    files[name] = bytes
    for (reader, open) in ForgedNumberTests.openings {
      do throws(JournalError) {
        try open(SimulatedStorage(files: files))
        Issue.record("\(reader) accepts \(forgery)")
      } catch {
        if case .damaged = error { continue }
        Issue.record("\(reader) of \(forgery): \(error)")
      }
    }
  }
}
