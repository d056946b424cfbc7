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
      item: ItemHandle(ordinal: 5), onHand: 10, held: 2, safetyStock: 3, version: 1)
    withScope("key", caller: "office") { scope in
      withName("sku", "loc") { name in
        withBytes("first delivery") { reason in
          let command = AdjustCommand(
            scope: scope, item: name, change: .delta(-4), safetyStock: 3, expectedVersion: nil,
            reason: reason)
          record.beginAdjusted(
            command, time: 1, slot: 2, generation: 3, fingerprint: 4, level: level, name: name)
        }
      }
    }
    let isRead: Void? = read(record) {
      #expect($0.kind == .adjusted && $0.level == level && $0.safetyStockAsked == 3)
      #expect($0.expectedVersion == nil && text($0.reason) == "first delivery")
      #expect(text($0.name.sku) == "sku" && text($0.name.location) == "loc")
      if case .delta(-4)? = $0.change {} else { Issue.record("another change") }
    }
    #expect(isRead != nil)
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
        bytes[4] = UInt8.random(in: 0...9, using: &random)
        bytes[5] = UInt8.random(in: 0...4, using: &random)
        bytes[6] %= 40
        bytes[7] %= 40
        if bytes[4] == 2 {
          bytes[41] = UInt8.random(in: 6...10, using: &random)
          bytes[42] = UInt8.random(in: 0...5, using: &random)
        }
        bytes.replaceSubrange(44..<48, with: [UInt8.random(in: 0...9, using: &random), 0, 0, 0])
      }
      unsafe bytes.withUnsafeBytes { bytes in
        guard let record = unsafe JournalRecord(bytes) else { return }
        var sum = 0
        for index in 0..<record.lineCount { sum &+= Int(record.line(index).ordinal) }
        for index in 0..<record.shortageCount { sum &+= Int(record.shortage(index).requested) }
        sum += text(record.key).count + text(record.caller).count + text(record.reason).count
        sum += text(record.name.sku).count + text(record.name.location).count
        _ = (sum, record.refusal, record.change, record.level)
      }
    }
  }
}
