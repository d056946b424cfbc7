import Testing

@testable import LoadHistory

@Suite struct HistoryFileTests {
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
