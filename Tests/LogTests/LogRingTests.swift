import Bytes
import Foundation
import LogFixtures
import Posix
import Synchronization
import Testing

@testable import Log

/// The ring between the sessions and the journal.
@Suite struct LogRingTests {
  private let shape = RecordShape(bytesMax: 4096, uncountedKind: 8)

  /// A record of any bytes behind its length and kind: a time, a number, and `size` bytes.
  private func record(
    _ size: Int, time: Int64 = 0, number: UInt32 = 0, worker: UInt32 = 0, kind: UInt8 = 1
  ) -> [UInt8] {
    let count = (24 + size + 7) & ~7
    var bytes = [UInt8](repeating: 0x6b, count: count)
    unsafe bytes.withUnsafeMutableBytes { bytes in
      unsafe bytes.storeBytes(of: UInt32(count).littleEndian, toByteOffset: 0, as: UInt32.self)
      unsafe bytes.storeBytes(of: UInt32(kind).littleEndian, toByteOffset: 4, as: UInt32.self)
      unsafe bytes.storeBytes(of: time, toByteOffset: 8, as: Int64.self)
      unsafe bytes.storeBytes(of: number, toByteOffset: 16, as: UInt32.self)
      unsafe bytes.storeBytes(of: worker, toByteOffset: 20, as: UInt32.self)
    }
    return bytes
  }

  private func append(_ record: [UInt8], to log: LogRing) -> UInt64 {
    unsafe record.withUnsafeBytes { unsafe log.append($0) }
  }

  /// Takes what is pending, as the journal does.
  private func take(_ log: LogRing, _ position: inout UInt64, max: Int = .max) -> [UInt8] {
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
    let log = LogRing(ringBytes: 1 << 14, shape: shape)
    defer { log.free() }
    log.resume(after: 1_000_000)
    var position: UInt64 = 1_000_000
    log.admit(cleared: position, spaceEnd: .max, isDiskFull: false)
    for round in 0..<2000 {
      var expected: [UInt8] = []
      for size in 0..<(round % 5 + 1) {
        #expect(log.isAdmitting)
        let record = record((round * 7 + size * 13) % 64, time: Int64(round))
        expected += record
        #expect(append(record, to: log) == position + UInt64(expected.count))
      }
      #expect(log.pending(from: position, bytesMax: .max).records == round % 5 + 1)
      #expect(take(log, &position) == expected)
    }
    #expect(log.pending(from: position, bytesMax: .max).records == 0)
  }

  @Test func groupsEndBetweenRecords() {
    let log = LogRing(ringBytes: 1 << 14, shape: shape)
    defer { log.free() }
    log.admit(cleared: 0, spaceEnd: .max, isDiskFull: false)
    let counted = record(3, time: 1)
    let size = counted.count
    for _ in 0..<3 { _ = append(counted, to: log) }
    _ = append(record(16, time: 5, kind: 8), to: log)
    #expect(log.pending(from: 0, bytesMax: 2 * size + 1) == (2 * size, 2, 2))
    #expect(log.pending(from: 0, bytesMax: size - 1) == (0, 0, 0))
    #expect(log.pending(from: 0, bytesMax: .max) == (3 * size + 40, 4, 3))
  }

  @Test func admitsNoMoreThanThereIsRoomFor() {
    let log = LogRing(ringBytes: 1 << 14, shape: shape)
    defer { log.free() }
    #expect(!log.isAdmitting)
    var position: UInt64 = 0
    log.admit(cleared: 0, spaceEnd: .max, isDiskFull: false)
    var appended = 0
    while log.isAdmitting {
      _ = append(record(10), to: log)
      appended += 1
    }
    // Five eighths of the ring are headroom for the records of sessions that have asked already.
    #expect(log.last >= 6 << 10 && log.last < 6 << 10 + 4096)
    #expect(log.reason == .journalFull)
    #expect(take(log, &position).count == Int(log.last))
    #expect(log.isAdmitting)
    log.admit(cleared: position, spaceEnd: position + 100, isDiskFull: true)
    #expect(!log.isAdmitting && log.reason == .noSpace)
    log.fail()
    #expect(!log.isAdmitting && log.reason == .failed)
  }

  @Test func withoutAJournalItOnlyCounts() {
    let log = LogRing(shape: shape)
    defer { log.free() }
    #expect(log.isAdmitting && !log.isKeeping && log.durable == .max)
    #expect(append(record(1), to: log) == 1)
    #expect(append(record(1), to: log) == 2)
  }

  /// Several threads append while one takes: every record once, whole, each thread's in order.
  @Test func threadsAppendWhileOneTakes() throws {
    let log = LogRing(ringBytes: 1 << 16, shape: shape)
    defer { log.free() }
    log.admit(cleared: 0, spaceEnd: .max, isDiskFull: false)
    let threads = 3
    let each = 20_000
    let workers = try (0..<threads).map { worker in
      try Thread(name: "append") {
        for number in 0..<each {
          while !log.isAdmitting { sched_yield() }
          let record = record(number % 50, number: UInt32(number), worker: UInt32(worker))
          _ = append(record, to: log)
        }
      }
    }
    var position: UInt64 = 0
    var next = [UInt32](repeating: 0, count: threads)
    var seen = 0
    while seen < threads * each {
      let bytes = take(log, &position, max: 5000)
      var offset = 0
      while offset < bytes.count {
        let (length, number, worker) = fields(bytes, offset)
        guard length == record(Int(number) % 50).count, Int(worker) < threads else {
          Issue.record("a record is not whole")
          seen = .max / 2
          break
        }
        #expect(number == next[Int(worker)])
        #expect(bytes[(offset + 24)..<(offset + length)].allSatisfy { $0 == 0x6b })
        next[Int(worker)] += 1
        offset += length
        seen += 1
      }
    }
    for worker in workers { worker.join() }
    #expect(seen == threads * each)
  }

  private func fields(
    _ bytes: [UInt8], _ offset: Int
  ) -> (length: Int, number: UInt32, worker: UInt32) {
    unsafe bytes.withUnsafeBytes { bytes in
      unsafe (
        Int(bytes.load(fromByteOffset: offset, as: UInt32.self).littleEndian),
        bytes.load(fromByteOffset: offset + 16, as: UInt32.self),
        bytes.load(fromByteOffset: offset + 20, as: UInt32.self)
      )
    }
  }
}
