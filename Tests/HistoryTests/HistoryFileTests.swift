import Testing

@testable import LoadHistory

@Suite struct HistoryFileTests {
  private func file(levels: [(Int64, Int64)?] = [(3, 0), (1, 0)]) -> [UInt8] {
    var story = Story(stock: 5, 1)
    let sale = story.sale(2, at: 1)
    story.call(sale, .extend, sent: 2, at: 3, story.acceptance(sale, 2, id: 0))
    story.call(sale, .confirm, sent: 3, at: 4)
    let abandoned = story.sale(at: 5)
    story.call(abandoned, .release, sent: 6, at: 0, nil)
    let cart = [CartLine(sku: 0, quantity: 3), CartLine(sku: 1, quantity: 2)]
    let refused = story.open(cart)
    story.send(refused, .reserve, at: 7)
    story.refused(refused, sku: 1, available: 1, fingerprint: .max, sent: 7, at: 8)
    _ = story.reserve(1, at: 9)
    story.send(sale, .reserve, at: 9)
    story.accepted(sale, sent: 9, at: 10, decided: 9, id: 99)
    story.read(3, 1, sent: 11, at: 12)
    story.restock(4, sku: 1, sent: 13, at: 14)
    var history = story.history(levels)
    history.seed = 12
    history.configuration = "a run"
    history.startNanoseconds = 1_000_000
    history.startedUnixNanoseconds = 1_700_000_000_000_000_000
    history.violations = [Violation(.forgotten, "key x")]
    return history.encoded()
  }

  @Test func aFileComesBackAsItWas() throws {
    let file = file()
    let history = try History(file)
    #expect(history.encoded() == file)
    #expect(history.run == RunID(1))
    #expect(history.stock == [5, 1])
    #expect(history.seed == 12)
    #expect(history.configuration == "a run")
    #expect(history.startedUnixNanoseconds == 1_700_000_000_000_000_000)
    #expect(history.violations == [Violation(.forgotten, "key x")])
    #expect(history.levels?[0].level == StockLevel(onHand: 3, held: 0))
    #expect(history.levels?[0].sentNanoseconds == 1_000_000_000)
    history.books.forEachLedger { ledger in
      #expect(ledger.count == 6)
      let sale = ReserveSummary(ledger, 0)
      #expect(sale.reserve.first == 2 && sale.confirm.answeredNanoseconds == 4_000_000)
      #expect(sale.latestExpiresNanoseconds == 1_060_002_000_000)
      #expect(ledger.acceptedID(of: 0) == ReservationID(number: 1))
      #expect(ReserveSummary(ledger, 1).release.mayHaveActed)
      let refusal = ReserveSummary(ledger, 2).refusal
      #expect(refusal?.available == 1 && refusal?.fingerprint == .max && refusal?.sku == 1)
      #expect(ledger.cart(of: 2).map { ledger.line(at: $0).quantity } == [3, 2])
      #expect(ReserveSummary(ledger, 3).reserve.mayHaveActed)
      #expect(ledger.line(of: 5) == CartLine(sku: 1, quantity: 4))
    }
  }

  @Test func whatAFileSaysDoesNotMoveTheCursor() throws {
    var history = Story(stock: 1).history([])
    history.violations = [Violation(.forgotten, "\u{1b}[2J key")]
    history.configuration = "a\nb\u{9b}c"
    let read = try History(history.encoded())
    #expect(read.violations[0].text == "?[2J key")
    #expect(read.configuration == "a?b?c")
  }

  @Test func aServerThatWasGoneLeavesNoBalances() throws {
    let history = try History(file(levels: []))
    #expect(history.levels == nil)
  }

  /// Every prefix, and every bit flipped: checked as something, or refused in words; never a trap.
  @Test func aFileThatIsDamagedIsReadOrRefused() throws {
    let file = file()
    for count in 0..<file.count {
      do {
        _ = try History(Array(file[..<count]))
        Issue.record("\(count) of \(file.count) bytes were read as a whole history")
      } catch { #expect(!error.description.isEmpty) }
    }
    var refused = 0
    for bit in 0..<8 * file.count {
      var damaged = file
      damaged[bit / 8] ^= 1 << UInt8(bit % 8)
      do { _ = try History(damaged).check() } catch { refused += 1 }
    }
    #expect(refused > file.count)
  }
}
