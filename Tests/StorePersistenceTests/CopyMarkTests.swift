import LogFixtures
import Posix
import Testing

@testable import Log
@testable import StorePersistence

@Suite("The mark of a copy")
struct CopyMarkTests {
  @Test(
    "What is not whole was about to become one",
    arguments: [
      ("beginning\n", CopyMark.beginning), ("copy\n", .copy), ("", .copy), ("beg", .copy),
      ("beginning", .copy), ("copy\ncopy\n", .copy), (String(repeating: "x", count: 100), .copy),
      ("\u{0}\u{ff}", .copy),
    ])
  func read(text: String, mark: CopyMark) throws {
    let storage = MemoryStorage()
    #expect(try CopyMark.read(storage) == nil)
    try CopyMark.requireNone(storage)
    let file = try #require(try storage.create(FileNames.copy) as? MemoryFile)
    file.bytes = Array(text.utf8)
    #expect(try CopyMark.read(storage) == mark)
    #expect(throws: JournalError.self) { try CopyMark.requireNone(storage) }
  }

  @Test("It is written whole, and safe before it has its name")
  func write() throws {
    let storage = MemoryStorage()
    for mark in [CopyMark.beginning, .copy] {
      try mark.write(to: storage)
      #expect(try CopyMark.read(storage) == mark)
    }
    let calls = storage.takeCalls().filter { !$0.hasPrefix("open") }
    let sync = try #require(calls.firstIndex { $0 == "sync" })
    let rename = try #require(calls.firstIndex { $0.hasPrefix("rename") })
    #expect(sync < rename && calls[rename + 1] == "sync directory")
  }

  @Test(
    "What the disk says is told",
    arguments: [MemoryStorage.Call.create, .write, .sync, .rename, .syncDirectory])
  func failures(call: MemoryStorage.Call) throws {
    let storage = MemoryStorage()
    try CopyMark.beginning.write(to: storage)
    storage.change { $0.failures[call] = .noSpace }
    #expect(throws: JournalError.self) { try CopyMark.copy.write(to: storage) }
    #expect(try CopyMark.read(storage) != nil)
  }
}
