import Foundation
import Posix
import Simulation
import Synchronization
import Testing

@testable import StockStore

/// The ring between the sessions and the journal.
@Suite struct DecisionLogTests {
  /// A clock record and a held one with a key of `size` bytes.
  private func held(_ size: Int, time: Int64) -> RecordWriter {
    var record = RecordWriter()
    withScope(String(repeating: "k", count: size), caller: "shop") { scope in
      record.beginHeld(
        time: time, slot: 1, generation: 2, fingerprint: 3, expiresAt: 4, lineCount: 1,
        scope: scope)
    }
    record.setLine(0, ordinal: 7, quantity: 8, version: 9, onHand: 10, held: 11)
    return record
  }

  /// Takes what is pending, as the journal does.
  private func take(_ log: DecisionLog, _ position: inout UInt64, max: Int = .max) -> [UInt8] {
    let (count, _, _) = log.pending(from: position, bytesMax: max)
    let bytes = unsafe log.withPending(from: position, count: count) { first, second in
      unsafe Array(first) + Array(second)
    }
    log.clear(from: position, count: count)
    position += UInt64(count)
    log.admit(cleared: position, spaceEnd: .max, isDiskFull: false)
    return bytes
  }

  @Test func recordsComeOutAsTheyWentInAroundTheEndOfTheRing() {
    let log = DecisionLog(ringBytes: 1 << 14)
    defer { log.free() }
    log.resume(after: 1_000_000)
    var position: UInt64 = 1_000_000
    log.admit(cleared: position, spaceEnd: .max, isDiskFull: false)
    for round in 0..<2000 {
      var expected: [UInt8] = []
      for size in 0..<(round % 5 + 1) {
        #expect(log.isAdmitting)
        let record = held((round * 7 + size * 13) % 64, time: Int64(round))
        expected += unsafe Array(record.bytes)
        #expect(log.append(record) == position + UInt64(expected.count))
      }
      #expect(log.pending(from: position, bytesMax: .max).records == round % 5 + 1)
      #expect(take(log, &position) == expected)
    }
    #expect(log.pending(from: position, bytesMax: .max).records == 0)
  }

  @Test func groupsEndBetweenRecords() {
    let log = DecisionLog(ringBytes: 1 << 14)
    defer { log.free() }
    log.admit(cleared: 0, spaceEnd: .max, isDiskFull: false)
    let record = held(3, time: 1)
    let size = unsafe record.bytes.count
    for _ in 0..<3 { _ = log.append(record) }
    var clock = RecordWriter()
    clock.begin(.clock, time: 5)
    _ = log.append(clock)
    #expect(log.pending(from: 0, bytesMax: 2 * size + 1) == (2 * size, 2, 2))
    #expect(log.pending(from: 0, bytesMax: size - 1) == (0, 0, 0))
    #expect(log.pending(from: 0, bytesMax: .max) == (3 * size + 40, 4, 3))
  }

  @Test func admitsNoMoreThanThereIsRoomFor() {
    let log = DecisionLog(ringBytes: 1 << 14)
    defer { log.free() }
    #expect(!log.isAdmitting)
    var position: UInt64 = 0
    log.admit(cleared: 0, spaceEnd: .max, isDiskFull: false)
    var appended = 0
    while log.isAdmitting {
      _ = log.append(held(10, time: 1))
      appended += 1
    }
    // Half of the ring is headroom for the records of sessions that have asked already.
    #expect(log.last >= 1 << 13 && log.last < 1 << 13 + 4096)
    #expect(log.reason == .journalFull)
    #expect(take(log, &position).count == Int(log.last))
    #expect(log.isAdmitting)
    log.admit(cleared: position, spaceEnd: position + 100, isDiskFull: true)
    #expect(!log.isAdmitting && log.reason == .noSpace)
    log.fail()
    #expect(!log.isAdmitting && log.reason == .failed)
  }

  @Test func withoutAJournalItOnlyCounts() {
    let log = DecisionLog()
    defer { log.free() }
    #expect(log.isAdmitting && !log.isJournaled && log.durable == .max)
    #expect(log.append(held(1, time: 1)) == 1)
    #expect(log.append(held(1, time: 1)) == 2)
  }

  /// Several threads append while one takes: every record once, whole, each thread's in order.
  @Test func threadsAppendWhileOneTakes() throws {
    let log = DecisionLog(ringBytes: 1 << 16)
    defer { log.free() }
    log.admit(cleared: 0, spaceEnd: .max, isDiskFull: false)
    let threads = 3
    let each = 20_000
    let workers = try (0..<threads).map { worker in
      try Thread(name: "append") {
        var record = RecordWriter()
        for number in 0..<each {
          while !log.isAdmitting { sched_yield() }
          withScope(String(number), caller: String(repeating: "c", count: number % 50)) {
            record.beginHeld(
              time: Int64(number), slot: UInt32(worker), generation: UInt32(number),
              fingerprint: 0, expiresAt: 0, lineCount: 0, scope: $0)
          }
          _ = log.append(record)
        }
      }
    }
    var position: UInt64 = 0
    var next = [UInt32](repeating: 0, count: threads)
    var seen = 0
    while seen < threads * each {
      let bytes = take(log, &position, max: 5000)
      unsafe bytes.withUnsafeBytes { bytes in
        var offset = 0
        while offset < bytes.count {
          let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset...])
          guard let record = unsafe JournalRecord(rest) else {
            Issue.record("a record is not whole")
            seen = .max / 2
            return
          }
          let worker = Int(record.slot)
          #expect(record.generation == next[worker])
          #expect(record.caller.count == Int(record.generation) % 50)
          next[worker] += 1
          offset += record.byteCount
          seen += 1
        }
      }
    }
    for worker in workers { worker.join() }
    #expect(seen == threads * each)
  }
}

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
      #expect($0.fingerprint == 8 && $0.value == 9 && $0.lineCount == lines)
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
