import Bytes
import LogFixtures
import Posix
import Testing

@testable import Log

@Suite("Segments that are ready")
struct SegmentPoolTests {
  private static let segmentBytes = 3 << 20
  private static let storeID = StoreID(low: 1, high: 2)

  private static func pool(
    _ storage: MemoryStorage, last: UInt64 = 0, spares: Int = 2, fault: LogFault? = nil
  ) throws -> SegmentPool {
    let options = JournalOptions(
      durability: .fsync, segmentBytes: 1 << 20, ringBytes: 1 << 16, groupBytesMax: 1 << 14,
      spareSegments: spares, checkpointSegments: 3, fault: fault)
    let pool = try SegmentPool(
      storage: storage, storeID: storeID, segmentBytes: segmentBytes, lastSequence: last,
      options: options)
    _ = storage.takeCalls()
    return pool
  }

  /// A pool with the segments 1 to `last` in use.
  private static func usedPool(
    _ storage: MemoryStorage, last: UInt64, spares: Int = 2, fault: LogFault? = nil
  ) throws -> SegmentPool {
    for sequence in 1...last { place(storage, name: sequence, header: sequence) }
    return try pool(storage, last: last, spares: spares, fault: fault)
  }

  private static func place(
    _ storage: MemoryStorage, name: UInt64, header: UInt64, byteCount: Int = segmentBytes
  ) {
    let file = MemoryFile(FileNames.segment(name), storage)
    file.bytes = [UInt8](repeating: 0xab, count: byteCount)
    file.put(block(header), at: 0)
    storage.change { $0.files[FileNames.segment(name)] = file }
  }

  private static func block(_ sequence: UInt64) -> [UInt8] {
    var block = [UInt8](repeating: 0, count: SegmentHeader.blockBytes)
    let header = SegmentHeader(sequence: sequence, segmentBytes: segmentBytes, storeID: storeID)
    unsafe block.withUnsafeMutableBytes { unsafe header.write(to: $0) }
    return block
  }

  private static func segments(_ storage: MemoryStorage) throws -> [UInt64] {
    try storage.names().compactMap(FileNames.segmentSequence).sorted()
  }

  // MARK: New files

  @Test("A new segment is zeros behind a header, and safe before it has its name")
  func new() throws {
    let storage = MemoryStorage()
    let pool = try Self.pool(storage)
    #expect(try pool.prepareNext())
    #expect(
      storage.takeCalls() == [
        "create segment.tmp", "write 1048576 at 0", "write 1048576 at 1048576",
        "write 1048576 at 2097152", "write 4096 at 0", "sync",
        "rename segment.tmp \(FileNames.segment(1))", "sync directory",
      ])
    let file = try #require(storage.file(FileNames.segment(1)))
    #expect(
      file.bytes == Self.block(1)
        + [UInt8](repeating: 0, count: Self.segmentBytes - SegmentHeader.blockBytes))
    #expect(pool.bytesOnDisk == Self.segmentBytes)
  }

  @Test("As many are made ready as are wanted, and given in order")
  func order() throws {
    let storage = MemoryStorage()
    let pool = try Self.pool(storage)
    #expect(pool.takeNext() == nil)
    var taken: [UInt64] = []
    for _ in 0..<3 {
      while try pool.prepareNext() {}
      #expect(pool.readyCount == 2)
      while let segment = pool.takeNext() {
        taken.append(segment.sequence)
        #expect(segment.file === storage.file(FileNames.segment(segment.sequence)))
      }
      #expect(pool.readyCount == 0)
    }
    #expect(taken == [1, 2, 3, 4, 5, 6])
    #expect(pool.bytesOnDisk == 6 * Self.segmentBytes)
  }

  @Test("A size that is no multiple of the piece")
  func oddSize() throws {
    let storage = MemoryStorage()
    let options = JournalOptions(
      durability: .fsync, segmentBytes: 0, ringBytes: 0, groupBytesMax: 0, spareSegments: 1,
      checkpointSegments: 2)
    let pool = try SegmentPool(
      storage: storage, storeID: Self.storeID, segmentBytes: (1 << 20) + 8192, lastSequence: 7,
      options: options)
    #expect(try pool.prepareNext())
    #expect(storage.file(FileNames.segment(8))?.bytes.count == (1 << 20) + 8192)
    #expect(try !pool.prepareNext())
  }

  // MARK: Recycled files

  @Test("A retired segment gets a header and a name, and keeps its bytes")
  func recycled() throws {
    let storage = MemoryStorage()
    let pool = try Self.usedPool(storage, last: 4)
    try pool.retire(before: 3)
    #expect(storage.takeCalls() == [])
    #expect(try pool.prepareNext())
    #expect(
      storage.takeCalls() == [
        "open \(FileNames.segment(2))", "write 4096 at 0", "sync",
        "rename \(FileNames.segment(2)) \(FileNames.segment(5))", "sync directory",
      ])
    #expect(pool.takeNext()?.sequence == 5)
    let file = try #require(storage.file(FileNames.segment(5)))
    #expect(Array(file.bytes.prefix(SegmentHeader.blockBytes)) == Self.block(5))
    #expect(file.bytes.dropFirst(SegmentHeader.blockBytes).allSatisfy { $0 == 0xab })
    #expect(pool.bytesOnDisk == 4 * Self.segmentBytes)
  }

  @Test(
    "Segments before one that was to become another are not used",
    arguments: [(header: 2, used: 1...4), (header: 5, used: 3...4), (header: 0, used: 3...4)])
  func cutOff(header: UInt64, used: ClosedRange<UInt64>) throws {
    let storage = MemoryStorage()
    for sequence in [1, 2, 3, 4] as [UInt64] {
      Self.place(storage, name: sequence, header: sequence == 2 ? header : sequence)
    }
    let pool = try Self.pool(storage, last: 4)
    pool.keepForArchive(from: 1)
    #expect(pool.unarchived(before: 5)?.next == used.lowerBound)
    #expect(pool.needed.keys.sorted() == Array(used))
  }

  @Test("In a steady state no file is made and none is removed")
  func steady() throws {
    let storage = MemoryStorage()
    let pool = try Self.usedPool(storage, last: 1)
    var last: UInt64 = 1
    for round in 0..<20 {
      for _ in 0..<3 {
        while try pool.prepareNext() {}
        last = try #require(pool.takeNext()).sequence
      }
      try pool.retire(before: last)
      let calls = storage.takeCalls()
      if round >= 2 {
        #expect(!calls.contains { $0.hasPrefix("create") || $0.hasPrefix("remove") })
      }
    }
    #expect(try Self.segments(storage).count <= 1 + 3 + 2 + 2)
  }

  @Test("After a rush the files that are too many are removed")
  func rush() throws {
    let storage = MemoryStorage()
    let pool = try Self.usedPool(storage, last: 40)
    try pool.retire(before: 40)
    #expect(try Self.segments(storage).count == 1 + 3 + 2)
    #expect(pool.bytesOnDisk == 6 * Self.segmentBytes)
    try pool.retire(before: 40)
    try pool.retire(before: 3)
    #expect(try Self.segments(storage).contains(40))
  }

  // MARK: What an earlier process left

  @Test("What was half made is removed, what was ready is made ready again")
  func leftovers() throws {
    let storage = MemoryStorage()
    for sequence in [3, 4, 5, 6] as [UInt64] {
      Self.place(storage, name: sequence, header: sequence)
    }
    storage.change { $0.files[FileNames.newSegment] = MemoryFile(FileNames.newSegment, storage) }
    let pool = try Self.pool(storage, last: 4)
    #expect(storage.file(FileNames.newSegment) == nil)
    #expect(pool.readyCount == 0)
    #expect(pool.bytesOnDisk == 4 * Self.segmentBytes)
    while try pool.prepareNext() {}
    let calls = storage.takeCalls()
    #expect(calls.count { $0 == "sync directory" } == 2)
    #expect(!calls.contains { $0.hasPrefix("rename") || $0.hasPrefix("create") })
    #expect(pool.takeNext()?.sequence == 5)
    #expect(pool.takeNext()?.sequence == 6)
  }

  @Test("No file takes the place of another", arguments: [[6, 8], [7, 6], [5, 9], [9, 7, 5]])
  func gaps(left: [Int]) throws {
    let storage = MemoryStorage()
    for sequence in [3, 4] + left {
      Self.place(storage, name: UInt64(sequence), header: UInt64(sequence))
    }
    let pool = try Self.pool(storage, last: 4, spares: left.count)
    while try pool.prepareNext() {}
    #expect(!storage.takeCalls().contains { $0.hasPrefix("create") })
    #expect(try Self.segments(storage) == Array(3..<(5 + UInt64(left.count))))
    for sequence in 5..<(5 + UInt64(left.count)) {
      let file = try #require(storage.file(FileNames.segment(sequence)))
      #expect(Array(file.bytes.prefix(SegmentHeader.blockBytes)) == Self.block(sequence))
    }
  }

  @Test("A file of another size is of no use", arguments: [0, 5000, (3 << 20) - 1, (3 << 20) + 1])
  func otherSize(byteCount: Int) throws {
    let storage = MemoryStorage()
    Self.place(storage, name: 1, header: 1)
    Self.place(storage, name: 2, header: 2, byteCount: byteCount)
    let pool = try Self.pool(storage, last: 1)
    #expect(try pool.prepareNext())
    #expect(storage.file(FileNames.segment(2))?.bytes.count == Self.segmentBytes)
  }

  // MARK: Failures

  @Test(
    "A full disk leaves nothing behind, and is tried again",
    arguments: [0, 1, 2 << 20, (3 << 20) - 1])
  func full(room: Int) throws {
    let storage = MemoryStorage()
    let pool = try Self.pool(storage)
    storage.change { $0.room = room }
    for _ in 0..<3 {
      #expect(throws: JournalError.failed(operation: "make", file: "segment.tmp", .noSpace)) {
        try pool.prepareNext()
      }
      #expect(try storage.names() == [])
      #expect(pool.readyCount == 0)
      storage.change { $0.room = room }
    }
    storage.change { $0.room = .max }
    #expect(try pool.prepareNext())
    #expect(pool.takeNext()?.sequence == 1)
  }

  @Test(
    "Whatever fails, the next call goes on",
    arguments: [.create, .open, .write, .sync, .rename, .syncDirectory] as [MemoryStorage.Call],
    [false, true])
  func failures(call: MemoryStorage.Call, recycles: Bool) throws {
    let storage = MemoryStorage()
    let pool = try Self.usedPool(storage, last: 4)
    if recycles { try pool.retire(before: 3) }
    if call == (recycles ? .create : .open) { return }
    storage.change { $0.failures[call] = .inputOutput }
    #expect(throws: JournalError.self) { try pool.prepareNext() }
    #expect(pool.readyCount == 0)
    #expect(storage.file(FileNames.newSegment) == nil)
    while try pool.prepareNext() {}
    #expect(pool.takeNext()?.sequence == 5)
    #expect(pool.takeNext()?.sequence == 6)
    for sequence in [5, 6] as [UInt64] {
      let file = try #require(storage.file(FileNames.segment(sequence)))
      #expect(Array(file.bytes.prefix(SegmentHeader.blockBytes)) == Self.block(sequence))
    }
    let files = try Self.segments(storage)
    #expect(files == (recycles ? [3, 4, 5, 6] : [1, 2, 3, 4, 5, 6]))
    #expect(pool.bytesOnDisk == files.count * Self.segmentBytes)
  }

  @Test("The deliberate bug: names are not synced", arguments: [false, true])
  func skipDirectorySync(recycles: Bool) throws {
    let storage = MemoryStorage()
    let pool = try Self.usedPool(storage, last: 4, fault: .skipDirectorySync)
    if recycles { try pool.retire(before: 3) }
    #expect(try pool.prepareNext())
    #expect(!storage.takeCalls().contains("sync directory"))
  }

  @Test("One thread takes what another makes ready")
  func threads() throws {
    let storage = MemoryStorage()
    let pool = try Self.pool(storage)
    let maker = try Thread(name: "maker") {
      var made = 0
      while made < 30 { if (try? pool.prepareNext()) == true { made += 1 } }
    }
    var next: UInt64 = 1
    while next <= 30 {
      guard let segment = pool.takeNext() else { continue }
      #expect(segment.sequence == next)
      next += 1
    }
    maker.join()
    #expect(pool.bytesOnDisk == 30 * Self.segmentBytes)
  }
}
