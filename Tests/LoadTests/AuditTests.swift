import Testing

@testable import LoadKit
@testable import LoadReport

/// Runs whose ledgers are saved, and held against the server once more.
@Suite(.serialized) struct AuditTests {
  /// A run against a server with `fault`, and what each of `audits` audits after it says.
  private func audits(
    _ fault: FakeServer.Fault, count: Int = 1, _ change: (inout RunOptions) -> Void = { _ in }
  ) throws -> [Audit] {
    let server = try FakeServer(fault)
    defer { server.stop() }
    var options = RunOptions(target: try #require(Endpoint("127.0.0.1:\(server.port)")))
    options.connections = 2
    options.streams = 4
    options.operations = 600
    options.seed = 3
    options.units = 60
    options.savesLedger = true
    options.run = RunID(42)
    options.workload.skuCount = 3
    options.workload.lines = 1...3
    change(&options)
    let result = try LoadKit.run(options) { _ in }
    #expect(result.exitStatus == 0)
    #expect(result.report.check == nil)
    var file = try #require(result.ledger)
    var audits: [Audit] = []
    for _ in 0..<count {
      var saved = try SavedRun(file)
      audits.append(try LoadKit.audit(&saved, target: options.target))
      file = saved.encoded()
    }
    return audits
  }

  @Test func whatWasAcknowledgedStands() throws {
    let audits = try audits(.none, count: 2) { $0.threads = 2 }
    for audit in audits {
      #expect(audit.holds, "\(audit.text) \(audit.check.examples)")
      #expect(audit.acknowledged > 400)
      #expect(audit.standing == audit.acknowledged)
      #expect(audit.unknown == 0)
      #expect(audit.check.refusalsJustified > 0)
      #expect(audit.check.confirmed > 0 && audit.check.released > 0)
    }
    #expect(audits[0].calls < audits[1].calls)
  }

  /// The calls that were under way when the connections were cut: known after one audit, and then a
  /// part of what the next one demands.
  @Test func whatWasCutOffIsDecidedOnce() throws {
    let audits = try audits(.hangsUp(after: 300, times: 2), count: 2)
    #expect(audits[0].holds, "\(audits[0].text) \(audits[0].check.examples)")
    #expect((1...8).contains(audits[0].unknown))
    #expect(audits[0].check.unknownOutcomes == 0)
    #expect(audits[1].holds, "\(audits[1].text) \(audits[1].check.examples)")
    #expect(audits[1].unknown == 0)
    #expect(audits[1].acknowledged == audits[0].acknowledged + audits[0].unknown)
  }

  @Test func aServerThatForgotIsFoundOut() throws {
    let audit = try #require(try audits(.losesEverything).first)
    #expect(!audit.holds)
    #expect(audit.lost == audit.acknowledged)
    #expect(audit.check.violations["acknowledged decision forgotten"] != nil)
  }

  @Test(arguments: [
    (FakeServer.Fault.forgetsKeys, "held units differ"),
    (.forgetsKeys, "acknowledged decision forgotten"), (.losesConfirms, "units lost or invented"),
  ])
  func otherFaultsAreFoundOut(fault: FakeServer.Fault, kind: String) throws {
    let audit = try #require(
      try audits(fault) {
        $0.workload.duplicateShare = 0
        $0.units = 1_000
      }.first)
    #expect(!audit.holds)
    #expect(audit.check.violations[kind] != nil, "\(audit.text)")
  }

  // MARK: The file

  private func file() -> [UInt8] {
    var story = Story(stock: 5, 1)
    let sale = story.sale(2, at: 1)
    story.end(sale, .confirm, sent: 3, at: 4)
    let abandoned = story.sale(at: 5)
    story.end(abandoned, .release, sent: 6, at: 0, nil)
    let cart = [CartLine(sku: 0, quantity: 3), CartLine(sku: 1, quantity: 2)]
    let refused = story.reserve(cart, at: 7)
    story.refused(refused, sku: 1, fingerprint: .max, at: 8)
    _ = story.reserve(1, at: 9)
    story.accepted(sale, at: 10, decided: 9, id: 99)
    var books = Books()
    let stock = story.stock
    books.add(story.ledger)
    return SavedRun(
      run: RunID(7), stock: stock, timeToLiveNanoseconds: 60_000_000_000, books: books
    ).encoded()
  }

  @Test func aFileComesBackAsItWas() throws {
    let file = file()
    let saved = try SavedRun(file)
    #expect(saved.encoded() == file)
    #expect(saved.run == RunID(7))
    #expect(saved.stock == [5, 1])
    #expect(saved.timeToLiveNanoseconds == 60_000_000_000)
    let sale = saved.books.record(0, 0)
    #expect(sale.reserve.decision == .accepted)
    #expect(sale.id == ReservationID(number: 1))
    #expect(sale.ending == .confirm)
    #expect(sale.end.answeredNanoseconds == 4_000_000)
    #expect(saved.books.record(0, 1).end.mayHaveActed)
    let refused = saved.books.record(0, 2)
    #expect(refused.reserve.reason == .insufficientStock)
    #expect(refused.fingerprint == .max)
    #expect(refused.refusedSKU == 1)
    #expect(saved.books.units(of: 1, 0, 2) == 2)
    #expect(saved.books.record(0, 3).reserve.mayHaveActed)
    saved.books.forEachLedger { ledger in
      #expect(ledger.violations.map(\.kind) == [.decidedTwice, .answeredDifferently])
    }
  }

  /// Every prefix, and every bit flipped: read as something, or refused in words; never a trap.
  @Test func aFileThatIsDamagedIsReadOrRefused() throws {
    let file = file()
    var refusals = 0
    for count in 0..<file.count {
      do { _ = try SavedRun(Array(file[..<count])) } catch {
        #expect("\(error)".contains("not a ledger"))
        refusals += 1
      }
    }
    for bit in 0..<8 * file.count {
      var damaged = file
      damaged[bit / 8] ^= 1 << UInt8(bit % 8)
      do { _ = try SavedRun(damaged) } catch { refusals += 1 }
    }
    #expect(refusals > file.count)
  }
}
