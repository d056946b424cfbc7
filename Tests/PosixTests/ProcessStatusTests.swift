import Foundation
import Testing

@testable import Posix

@Suite("What the kernel says of this process")
struct ProcessStatusTests {
  @Test("Memory, threads and descriptors are there, and a descriptor more is one more")
  func status() throws {
    let before = try #require(ProcessStatus())
    #expect(before.residentBytes > 1 << 20)
    #expect(before.virtualBytes > before.residentBytes)
    #expect(before.threads >= 1)
    #expect((3...before.openDescriptorsMax).contains(before.openDescriptors))
    // Other tests open and close some beside this one.
    let files = (0..<100).compactMap { _ in FileHandle(forReadingAtPath: "/dev/null") }
    let after = try #require(ProcessStatus())
    #expect(after.openDescriptors > before.openDescriptors + 50)
    for file in files { try file.close() }
  }

  @Test("A file system has a size, and room within it; a path that is none has none")
  func room() throws {
    let room = try FileSystemRoom(path: FileManager.default.temporaryDirectory.path)
    #expect(room.totalBytes > 0)
    #expect((0...room.totalBytes).contains(room.freeBytes))
    #expect(throws: Errno.self) { try FileSystemRoom(path: "/no/such/path") }
    // Without a limit is much, and not less than nothing.
    #expect(FileSystemRoom.bytes(UInt64.max, of: 4096) == .max)
    #expect(FileSystemRoom.bytes(UInt64(3), of: 4096) == 12_288)
  }
}
