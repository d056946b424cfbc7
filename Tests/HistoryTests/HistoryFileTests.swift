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
    let changed = story.sale(2, at: 15)
    story.replace(changed, [CartLine(sku: 1, quantity: 1)], revision: 1, sent: 16, at: 17)
    story.overLimit(1, sku: 1, used: 2, at: 18, subject: 70_000)
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
      #expect(ledger.count == 8)
      #expect(
        ledger[7].limit == SubjectLimit(subject: 70_000, maxUnits: 2) && ledger[6].limit == nil)
      #expect(ReserveSummary(ledger, 7).refusal?.used == 2)
      #expect(ledger.newCart(of: 6).map { ledger.line(at: $0) } == [CartLine(sku: 1, quantity: 1)])
      #expect(ledger[6].expectedRevision == 1 && ReserveSummary(ledger, 6).replace.isAccepted)
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

  /// Other writers of protobuf leave out what is 0, which is the run's start and not the clock's.
  @Test func anAttemptAtTheVeryStart() throws {
    var story = Story(stock: 1)
    story.sale(at: 1)
    var history = story.history([(1, 1)])
    history.startNanoseconds = 1_000_000
    let file = Doctor.change(history.encoded()) { $0 != 0 || $1 != [4, 6, 2] ? $0 : nil }
    let read = try History(file)
    #expect(file.count == history.encoded().count - 2)
    read.books.forEachLedger { #expect($0.attempt(0).sentNanoseconds == 1_000_000) }
  }

  /// Files of older formats are read, and those of newer ones are not.
  @Test func formats() throws {
    let file = file()
    #expect(file.prefix(2) == [8, 2])
    for (format, isRead) in [(0, false), (1, true), (2, true), (3, false)] as [(UInt8, Bool)] {
      #expect(((try? History([8, format] + file.dropFirst(2))) != nil) == isRead, "\(format)")
    }
  }

  /// A file has attempts by operation: how long the run was does not depend on that.
  @Test func aFileIsCheckedAsTheRunWas() throws {
    var story = Story(stock: 3)
    let first = story.sale(at: 1)
    let second = story.reserve(1, at: 3)
    story.accepted(second, sent: 3, at: 4, decided: 30_000)
    story.call(
      first, .release, sent: 100_000_000, at: 100_000_001, Story.refusal(.reservationExpired))
    let history = story.history([(3, 0)], at: 100_000_002)
    #expect(history.check().counts == [:])
    #expect(try History(history.encoded()).check().counts == [:])
  }

  /// Numbers as far apart as a file may state them, a few at a time.
  @Test func extremeNumbersAreReadOrRefused() {
    var random = Lehmer(state: 20)
    let file = file()
    var numbers = 0
    _ = Doctor.change(file) { value, _ in
      numbers += 1
      return value
    }
    var checked = 0
    for _ in 0..<2_000 {
      let changed = Set((0...random.below(4)).map { _ in random.below(numbers) })
      var number = -1
      let damaged = Doctor.change(file) { value, _ in
        number += 1
        return changed.contains(number)
          ? Doctor.extremes[random.below(Doctor.extremes.count)] : value
      }
      if let history = try? History(damaged) {
        _ = history.check()
        checked += 1
      }
    }
    #expect(checked > 100)
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

/// Changes the numbers in a history's bytes.
private enum Doctor {
  /// What the reader's bounds are made of.
  static let extremes: [UInt64] =
    [0, 1, 2, 64, 1 << 32 - 1, 1 << 62].map { UInt64($0) }
    + [40, 48, 53, 60].flatMap { power -> [UInt64] in
      let number = Int64(1) << power
      return [number, -number, number - 1, 1 - number, number / 2].map { UInt64(bitPattern: $0) }
    } + [.max, 1 << 63, 1 << 63 - 1]

  /// Fields that are messages, by the fields around them.
  private static let messages: Set<[UInt64]> = [[2], [4], [4, 4], [4, 6], [5], [6]]

  /// - Parameter change: a number and the fields that lead to it; nil to leave it out.
  static func change(
    _ message: [UInt8], within path: [UInt64] = [], _ change: (UInt64, [UInt64]) -> UInt64?
  ) -> [UInt8] {
    var changed: [UInt8] = []
    for field in Fields(message).fields {
      let inner = path + [field.number]
      if field.isNumber {
        if let value = change(field.value, inner) { changed += Fields.varint(field.number, value) }
      } else if messages.contains(inner) {
        changed += Fields.bytes(field.number, self.change(field.bytes, within: inner, change))
      } else {
        changed += Fields.bytes(field.number, field.bytes)
      }
    }
    return changed
  }
}
