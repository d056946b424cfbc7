import Bytes
import Posix
import Simulation
import Testing

@testable import Log
@testable import StockStore

/// Records by their bytes.
@Suite struct RecordFormatTests {
  private func read<R>(_ record: borrowing RecordWriter, _ body: (JournalRecord) -> R) -> R? {
    let bytes = unsafe Array(record.bytes)
    return unsafe bytes.withUnsafeBytes { unsafe JournalRecord($0).map(body) }
  }

  private func text(_ bytes: BorrowedBytes) -> String {
    unsafe String(decoding: bytes.pointer, as: UTF8.self)
  }

  @Test(arguments: [0, 1, 5, 64]) func held(lines: Int) {
    var record = RecordWriter()
    withScope("key-1", caller: "shop") {
      record.beginHeld(
        time: -5, slot: 6, generation: 7, fingerprint: 8, expiresAt: 9, lineCount: lines, scope: $0)
    }
    for line in 0..<lines {
      record.setLine(
        line, ordinal: UInt32(line), quantity: 1 << 40, version: 12, onHand: 13, held: 14)
    }
    let isRead: Void? = read(record) {
      #expect($0.kind == .held && $0.time == -5 && $0.slot == 6 && $0.generation == 7)
      #expect($0.fingerprint == 8 && $0.expiresAt == 9 && $0.lineCount == lines)
      #expect(text($0.key) == "key-1" && text($0.caller) == "shop")
      for index in 0..<lines {
        let line = $0.line(index)
        #expect(line.ordinal == UInt32(index) && line.quantity == 1 << 40 && line.version == 12)
        #expect(line.onHand == 13 && line.held == 14)
      }
    }
    #expect(isRead != nil)
    if lines == 1 { #expect(unsafe record.bytes.count == 88) }
  }

  @Test func refused() {
    var record = RecordWriter()
    let changes = WriteSet(capacity: 4)
    let further = RefusalList(capacity: 4)
    defer {
      changes.free()
      further.free()
    }
    withScope("key", caller: "") { scope in
      withName("no-such", "Ljubljana") { name in
        record.beginRefused(
          .reserve, .itemsNotFound(first: 3, places: 0x8000_0000_0000_0009), time: 1, slot: 2,
          generation: 3, fingerprint: 4, scope: scope, lines: changes, further: further, name: name)
      }
    }
    let isRead: Void? = read(record) {
      #expect($0.kind == .refused)
      #expect($0.refusal == .itemsNotFound(first: 3, places: 0x8000_0000_0000_0009))
      #expect($0.refusedMethod == .reserve && text($0.key) == "key" && $0.caller.count == 0)
      #expect(text($0.name.sku) == "no-such" && text($0.name.location) == "Ljubljana")
    }
    #expect(isRead != nil)
  }

  @Test(arguments: [0, 1, 63]) func refusedForLackOfUnits(others: Int) {
    var record = RecordWriter()
    var changes = WriteSet(capacity: 64)
    var further = RefusalList(capacity: 64)
    defer {
      changes.free()
      further.free()
    }
    for index in 0..<64 { changes.append(ItemChange(ordinal: UInt32(index), required: 1 << 40)) }
    for index in 0..<others {
      further.append(
        .insufficientStock(
          item: ItemHandle(ordinal: UInt32(index + 1)), requested: 1 << 40,
          available: Int64(-index)))
    }
    let longText = String(repeating: "x", count: 64)
    withScope(longText, caller: longText) {
      record.beginRefused(
        .reserve,
        .insufficientStock(item: ItemHandle(ordinal: 0), requested: 1 << 40, available: -5),
        time: 1, slot: 2, generation: 3, fingerprint: 4, scope: $0, lines: changes,
        further: further, name: nil)
    }
    let isRead: Void? = read(record) {
      #expect(
        $0.refusal
          == .insufficientStock(item: ItemHandle(ordinal: 0), requested: 1 << 40, available: -5))
      #expect($0.lineCount == 64 && $0.line(63).quantity == 1 << 40)
      #expect($0.shortageCount == others)
      for index in 0..<others {
        #expect(
          $0.shortage(index)
            == Shortage(
              item: ItemHandle(ordinal: UInt32(index + 1)), requested: 1 << 40,
              available: Int64(-index)))
      }
      #expect(text($0.key) == longText && text($0.caller) == longText && $0.name.sku.count == 0)
    }
    #expect(isRead != nil)
  }

  @Test func adjusted() {
    var record = RecordWriter()
    let level = StockLevel(
      item: ItemHandle(ordinal: 5), onHand: 10, held: 2, committed: 0, safetyStock: 3, version: 1)
    withScope("key", caller: "office") { scope in
      withName("sku", "loc") { name in
        withBytes("first delivery") { reason in
          let command = AdjustCommand(
            scope: scope, item: name, change: .delta(-4), safetyStock: 3, check: .none,
            reason: reason)
          record.beginAdjusted(
            command, time: 1, slot: 2, generation: 3, fingerprint: 4, level: level, name: name)
        }
      }
    }
    let isRead: Void? = read(record) {
      #expect($0.kind == .adjusted && $0.level == level && $0.safetyStockAsked == 3)
      #expect($0.check == .none && !$0.allowsShortage && text($0.reason) == "first delivery")
      #expect(text($0.name.sku) == "sku" && text($0.name.location) == "loc")
      if case .delta(-4)? = $0.change {} else { Issue.record("another change") }
    }
    #expect(isRead != nil)
  }

  // MARK: Parts

  private func extended(key count: Int = 0, _ parts: (inout RecordWriter) -> Void) -> [UInt8] {
    var record = RecordWriter()
    withScope("", caller: String(repeating: "c", count: count)) {
      record.begin(
        .extended, time: 1, slot: 2, generation: 3, tag: 4, value: 5, lineCount: 0,
        caller: $0.caller)
    }
    parts(&record)
    return unsafe Array(record.bytes)
  }

  private func read<R>(_ bytes: [UInt8], _ body: (JournalRecord) -> R) -> R? {
    unsafe bytes.withUnsafeBytes { unsafe JournalRecord($0).map(body) }
  }

  @Test("A record without parts is as it was, and has none", arguments: 0...9)
  func noParts(callerBytes: Int) {
    let bytes = extended(key: callerBytes) { _ in }
    #expect(bytes.count == (40 + callerBytes + 7) & ~7)
    let isRead: Void? = read(bytes) {
      #expect($0.revision == nil && $0.reference.count == 0 && $0.part(.committed) == nil)
    }
    #expect(isRead != nil)
  }

  @Test("Parts are found by their tags, wherever the texts end", arguments: 0...9)
  func parts(callerBytes: Int) {
    let bytes = extended(key: callerBytes) { record in
      record.append(.revision, .max - 5)
      withBytes("order:4711") { record.append(.reference, $0) }
    }
    let isRead: Void? = read(bytes) {
      #expect($0.revision == .max - 5 && text($0.reference) == "order:4711")
      #expect($0.caller.count == callerBytes && $0.part(.committed) == nil)
    }
    #expect(isRead != nil)
  }

  @Test("What was chosen is one byte", arguments: 0...9)
  func choice(callerBytes: Int) {
    let bytes = extended(key: callerBytes) { record in
      record.append(.choice, byte: 0x18)
      record.append(.revision, 7)
    }
    #expect(bytes.count == (40 + callerBytes + 4 + 11 + 7) & ~7)
    let isRead: Void? = read(bytes) {
      #expect($0.choice == 0x18 && $0.revision == 7)
      #expect(
        HoldChoice(rawValue: 0x18) == HoldChoice(alternative: 8, tellsLines: true))
    }
    #expect(isRead != nil)
    for value in UInt8.min...UInt8.max {
      let isOne = value & 0xf <= 8 && value < 0x20
      #expect((HoldChoice(rawValue: value) != nil) == isOne, "\(value)")
    }
  }

  @Test("A number for each line, set later", arguments: [1, 5, 64])
  func numbers(lines: Int) {
    var record = RecordWriter()
    withScope(String(repeating: "k", count: 64), caller: String(repeating: "c", count: 64)) {
      record.beginHeld(
        time: 1, slot: 2, generation: 3, fingerprint: 4, expiresAt: 5, lineCount: lines, scope: $0)
    }
    withBytes(String(repeating: "r", count: 64)) { record.append(.reference, $0) }
    let place = record.appendNumbers(.committed, count: lines)
    for line in 0..<lines {
      record.setLine(line, ordinal: 1, quantity: 2, version: 3, onHand: 4, held: 5)
      record.setNumber(line, at: place, Int64(1 << 40 + line))
    }
    let isRead: Void? = read(record) {
      #expect($0.reference.count == 64 && $0.lineCount == lines)
      for line in 0..<lines { #expect($0.number(.committed, line) == Int64(1 << 40 + line)) }
    }
    #expect(isRead != nil)
  }

  @Test("Parts that are unknown, come twice, have another length or no end are no record")
  func harmedParts() {
    let whole = extended { $0.append(.revision, 7) }
    #expect(whole.count == 56 && read(whole) { $0.revision } == 7)
    func harmed(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
      var bytes = whole
      change(&bytes)
      return bytes
    }
    let table: [(String, [UInt8])] = [
      ("an unknown tag", harmed { $0[40] = 200 }), ("the highest tag", harmed { $0[40] = 255 }),
      ("shorter", harmed { $0[41] = 7 }), ("longer", harmed { $0[41] = 9 }),
      ("beyond the record", harmed { $0[42] = 1 }),
      ("empty", harmed { $0.replaceSubrange(40..<48, with: [1, 0, 0, 0, 0, 0, 0, 0]) }),
      ("for lines that it has not", harmed { $0[40] = 2 }),
      ("a choice of eight bytes", harmed { $0[40] = 6 }),
      ("a third of a sale window", harmed { $0[40] = 9 }),
      (
        "not up to the end",
        extended { $0.append(.revision, 7) }.dropLast(8) + [UInt8](repeating: 0, count: 24)
      ),
      ("no room for a length", extended(key: 7) { _ in }.dropLast(1) + [1]),
      (
        "twice",
        extended {
          $0.append(.revision, 7)
          $0.append(.revision, 8)
        }
      ),
    ]
    for (name, bytes) in table {
      var bytes = bytes
      bytes[0] = UInt8(bytes.count)
      #expect(read(bytes) { _ in } == nil, "\(name)")
    }
  }

  @Test("What a shelf needs, and what safety stock was before", arguments: [-7, -1, 0, 5])
  func adjustedShelf(safetyStockBefore: Int64) {
    for (change, check): (AdjustCommand.Change, AdjustCommand.Check) in [
      (.ship(3), .onHand(12)), (.uncommit(1 << 40), .version(7)), (.setOnHand(0), .none),
    ] {
      var record = RecordWriter()
      let level = StockLevel(
        item: ItemHandle(ordinal: 5), onHand: 10, held: 2, committed: 1 << 41, safetyStock: -3,
        version: 9)
      withScope("key", caller: "office") { scope in
        withName("sku", "loc") { name in
          let command = AdjustCommand(
            scope: scope, item: name, change: change, safetyStock: -3, check: check,
            allowsShortage: true, reference: name.sku, reason: .empty)
          record.beginAdjusted(
            command, time: 1, slot: 2, generation: 3, fingerprint: 4, level: level,
            safetyStockBefore: safetyStockBefore, name: nil)
        }
      }
      let isRead: Void? = read(record) {
        #expect($0.level == level && $0.change == change && $0.check == check)
        #expect($0.allowsShortage && $0.safetyStockAsked == -3 && text($0.reference) == "sku")
        #expect($0.safetyStockBefore == safetyStockBefore)
      }
      #expect(isRead != nil)
    }
  }

  @Test("The sale window of an adjustment, asked for or as it was", arguments: [false, true])
  func adjustedSale(isAsked: Bool) {
    for sale in [
      TestSale(), TestSale(isFrozen: true), TestSale(from: 5), TestSale(from: 1 << 60, until: .max),
    ] {
      var record = RecordWriter()
      let level = StockLevel(
        item: ItemHandle(ordinal: 5), onHand: 10, held: 2, committed: 7, safetyStock: -3,
        version: 9, sale: sale.window)
      withScope("key", caller: "office") { scope in
        withName("sku", "loc") { name in
          let command = AdjustCommand(
            scope: scope, item: name, change: .none, safetyStock: nil,
            sale: isAsked ? sale.window : nil, check: .none, reference: name.sku,
            reason: name.location)
          record.beginAdjusted(
            command, time: 1, slot: 2, generation: 3, fingerprint: 4, level: level, name: nil)
        }
      }
      let isRead: Void? = read(record) {
        #expect($0.level == level && $0.setsSale == isAsked)
        #expect(text($0.reference) == "sku" && text($0.reason) == "loc")
      }
      #expect(isRead != nil)
    }
  }

  @Test("A refusal of items that are not on sale", arguments: [0, 1, 63])
  func notOnSale(others: Int) {
    func sale(_ index: Int) -> ClosedSale {
      ClosedSale(
        item: ItemHandle(ordinal: UInt32(index)),
        window: TestSale(from: Int64(index) + 5, until: 1 << 60, isFrozen: index % 2 == 0).window)
    }
    var record = RecordWriter()
    var lines = WriteSet(capacity: 64)
    var further = RefusalList(capacity: 64)
    defer {
      lines.free()
      further.free()
    }
    for index in 0...others {
      lines.append(ItemChange(ordinal: UInt32(index), required: 1 << 40))
      if index > 0 { further.append(.notOnSale(item: sale(index).item, sale(index).window)) }
    }
    let longText = String(repeating: "x", count: 255)
    withScope(longText, caller: longText) {
      record.beginRefused(
        .reserve, .notOnSale(item: sale(0).item, sale(0).window), time: 1, slot: 2, generation: 3,
        fingerprint: 4, scope: $0, lines: lines, further: further, name: nil)
    }
    withBytes(String(repeating: "r", count: 64)) { record.append(.reference, $0) }
    let isRead: Void? = read(record) {
      #expect($0.refusal == .notOnSale(item: sale(0).item, sale(0).window))
      #expect($0.closedSaleCount == others + 1 && $0.lineCount == others + 1)
      for index in 0...others { #expect($0.closedSale(index) == sale(index)) }
      #expect($0.reference.count == 64 && text($0.key) == longText)
    }
    #expect(isRead != nil)
  }

  @Test func committedOfLines() {
    var record = RecordWriter()
    withScope("key", caller: "shop") { scope in
      record.beginHeld(
        time: 1, slot: 2, generation: 3, fingerprint: 4, expiresAt: 5, lineCount: 3, scope: scope)
    }
    for index in 0..<3 {
      record.setLine(
        index, ordinal: UInt32(index), quantity: 1, version: 2, onHand: 10, held: 1)
    }
    let plain = unsafe Array(record.bytes)
    let isPlain: Void? = read(record) {
      for index in 0..<3 { #expect($0.line(index).committed == 0) }
    }
    #expect(isPlain != nil)
    // Written again after a conflict, it says what was read last.
    record.setCommitted(lineCount: 3) { Int64($0) }
    record.setCommitted(lineCount: 3) { 1 << 41 + Int64($0) }
    let isRead: Void? = read(record) {
      for index in 0..<3 { #expect($0.line(index).committed == 1 << 41 + Int64(index)) }
    }
    #expect(isRead != nil)
    let count = unsafe record.bytes.count
    #expect(count == plain.count + 24)
    withScope("key", caller: "shop") { scope in
      record.beginHeld(
        time: 1, slot: 2, generation: 3, fingerprint: 4, expiresAt: 5, lineCount: 3, scope: scope)
    }
    // The next one says nothing of it.
    let next = unsafe record.bytes.count
    #expect(next == plain.count)
  }

  /// Lengths and kinds that do not fit together are refused; whatever is accepted can be read whole.
  @Test func hostileBytes() {
    var random = SeededRandom(seed: 11)
    for _ in 0..<20_000 {
      var bytes = (0..<Int.random(in: 0...200, using: &random)).map { _ in
        UInt8.random(in: 0...255, using: &random)
      }
      // Close enough to a record to get past the first checks now and then.
      if bytes.count >= 48 {
        bytes.replaceSubrange(0..<4, with: [UInt8(bytes.count & ~7), 0, 0, 0])
        bytes[4] = UInt8.random(in: 0...11, using: &random)
        bytes[5] = UInt8.random(in: 0...4, using: &random)
        bytes[6] %= 40
        bytes[7] %= 40
        if bytes[4] == 2 {
          bytes[41] = UInt8.random(in: 6...10, using: &random)
          bytes[42] = UInt8.random(in: 0...5, using: &random)
        }
        if bytes[4] >= 10 { bytes[40...43] = [UInt8.random(in: 0...40, using: &random), 0, 0, 0] }
        bytes.replaceSubrange(44..<48, with: [UInt8.random(in: 0...9, using: &random), 0, 0, 0])
        if Bool.random(using: &random) {
          let part = [
            UInt8.random(in: 0...6, using: &random), UInt8.random(in: 0...20, using: &random), 0,
          ]
          bytes.replaceSubrange(bytes.count - 12..<bytes.count - 9, with: part)
        }
      }
      unsafe bytes.withUnsafeBytes { bytes in
        guard let record = unsafe JournalRecord(bytes) else { return }
        var sum = 0
        for index in 0..<record.lineCount { sum &+= Int(record.line(index).ordinal) }
        for index in 0..<record.shortageCount { sum &+= Int(record.shortage(index).requested) }
        sum += text(record.key).count + text(record.caller).count + text(record.reason).count
        sum += text(record.name.sku).count + text(record.name.location).count
        for part in RecordPart.allCases { sum += record.part(part)?.count ?? 0 }
        sum &+= Int(truncatingIfNeeded: record.revision ?? 0) &+ Int(record.choice ?? 0)
        record.forEachChange { sum &+= Int($0.level.item.ordinal) + ($0.name?.byteCount ?? 0) }
        _ = (sum, record.refusal, record.change, record.level)
      }
    }
  }
}
