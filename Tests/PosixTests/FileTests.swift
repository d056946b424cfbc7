import Glibc
import Posix
import Testing

@Suite("Files and directories")
struct FileTests {
  /// A new directory, removed with what is in it.
  private struct Temporary: ~Copyable {
    let path: String
    let directory: Directory

    init() throws {
      path = "/tmp/holdfast-files-\(Machine.random64())"
      guard try Directory.make(path: path) else { throw Errno.alreadyInUse }
      directory = try Directory(path: path)
    }

    deinit {
      for name in (try? directory.names()) ?? [] { try? directory.remove(name) }
      unsafe rmdir(path)
    }
  }

  private static func write(
    _ parts: [UInt8]..., to file: borrowing File, at offset: Int
  ) throws(Errno) {
    let parts = parts + [[UInt8]](repeating: [], count: 3 - parts.count)
    let result = unsafe parts[0].withUnsafeBytes { first in
      unsafe parts[1].withUnsafeBytes { second in
        unsafe parts[2].withUnsafeBytes { third in
          do throws(Errno) {
            try unsafe file.write(first, second, third, at: offset)
            return Errno?.none
          } catch {
            return error
          }
        }
      }
    }
    if let result { throw result }
  }

  private static func read(
    _ file: borrowing File, most: Int, at offset: Int = 0
  ) throws(Errno) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: most)
    var span = bytes.mutableSpan
    let count = try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
      try unsafe file.read(into: bytes, at: offset)
    }
    return Array(bytes.prefix(count))
  }

  @Test("Parts are written one behind the other; empty ones count for nothing")
  func parts() throws {
    let temporary = try Temporary()
    let file = try temporary.directory.file("a", for: .replacing)
    for present in 0..<8 {
      let parts = (0..<3).map { index in
        present >> index & 1 == 0
          ? [UInt8]() : [UInt8](repeating: UInt8(10 + index), count: 3000 + index)
      }
      try Self.write([UInt8](repeating: 1, count: 20_000), to: file, at: 0)
      try Self.write(parts[0], parts[1], parts[2], to: file, at: 77)
      let expected = parts[0] + parts[1] + parts[2]
      let bytes = try Self.read(file, most: 20_000)
      #expect(Array(bytes[77..<(77 + expected.count)]) == expected)
      #expect(bytes[..<77].allSatisfy { $0 == 1 })
      #expect(bytes[(77 + expected.count)...].allSatisfy { $0 == 1 })
    }
  }

  @Test("Reading ends where the file ends")
  func end() throws {
    let temporary = try Temporary()
    let file = try temporary.directory.file("a", for: .replacing)
    #expect(try file.byteCount() == 0)
    #expect(try Self.read(file, most: 10) == [])
    try Self.write([1, 2, 3], to: file, at: 5)
    try file.sync()
    #expect(try file.byteCount() == 8)
    #expect(try Self.read(file, most: 10) == [0, 0, 0, 0, 0, 1, 2, 3])
    #expect(try Self.read(file, most: 2, at: 5) == [1, 2])
    #expect(try Self.read(file, most: 2, at: 7) == [3])
    #expect(try Self.read(file, most: 2, at: 8) == [])
    #expect(try Self.read(file, most: 0, at: 3) == [])
  }

  @Test("What a file is opened for")
  func purposes() throws {
    let temporary = try Temporary()
    #expect(throws: Errno.noSuchFile) { _ = try temporary.directory.file("a", for: .reading) }
    #expect(throws: Errno.noSuchFile) { _ = try temporary.directory.file("a", for: .writing) }
    let made = try temporary.directory.file("a", for: .writingOrCreating)
    try Self.write([1, 2, 3], to: made, at: 0)
    let kept = try temporary.directory.file("a", for: .writingOrCreating)
    #expect(try kept.byteCount() == 3)
    let readOnly = try temporary.directory.file("a", for: .reading)
    #expect(throws: Errno(code: EBADF)) { try Self.write([1], to: readOnly, at: 0) }
    let emptied = try temporary.directory.file("a", for: .replacing)
    #expect(try emptied.byteCount() == 0)
    #expect(try kept.byteCount() == 0)
  }

  @Test("Files are their owner's alone, and are not handed to other programs")
  func permissions() throws {
    let temporary = try Temporary()
    _ = try temporary.directory.file("a", for: .replacing)
    var status = stat()
    #expect(unsafe stat(temporary.path, &status) == 0)
    #expect(status.st_mode & 0o777 == 0o700)
    #expect(unsafe stat("\(temporary.path)/a", &status) == 0)
    #expect(status.st_mode & 0o777 == 0o600)
  }

  @Test("A full disk is an error")
  func full() throws {
    let file = try Directory(path: "/dev").file("full", for: .writing)
    #expect(throws: Errno.noSpace) { try Self.write([1, 2, 3], to: file, at: 0) }
  }

  @Test("A lock is one exclusive one, or many shared ones")
  func lock() throws {
    let temporary = try Temporary()
    let first = try temporary.directory.file("lock", for: .writingOrCreating)
    do {
      let second = try temporary.directory.file("lock", for: .reading)
      #expect(try second.lock(exclusive: true))
      #expect(try !first.lock(exclusive: true))
      #expect(try !first.lock(exclusive: false))
    }
    // Closing has unlocked it.
    #expect(try first.lock(exclusive: false))
    let third = try temporary.directory.file("lock", for: .reading)
    #expect(try third.lock(exclusive: false))
    #expect(try !third.lock(exclusive: true))
  }

  @Test("Names are listed, changed and removed")
  func names() throws {
    let temporary = try Temporary()
    let directory = try Directory(path: temporary.path)
    #expect(try directory.names() == [])
    let expected = (0..<300).map { "file-\($0)" }
    for name in expected { _ = try directory.file(name, for: .replacing) }
    for _ in 0..<2 { #expect(Set(try directory.names()) == Set(expected)) }
    try Self.write([7], to: try directory.file("file-1", for: .writing), at: 0)
    try directory.rename("file-1", to: "file-2")
    try directory.sync()
    #expect(try Self.read(try directory.file("file-2", for: .reading), most: 5) == [7])
    #expect(try directory.names().count == 299)
    for name in try directory.names() { try directory.remove(name) }
    #expect(try directory.names() == [])
    #expect(throws: Errno.noSuchFile) { try directory.remove("file-1") }
    #expect(throws: Errno.noSuchFile) { try directory.rename("file-1", to: "b") }
    try directory.syncParent()
  }

  @Test("A directory is made once")
  func make() throws {
    let temporary = try Temporary()
    #expect(try !Directory.make(path: temporary.path))
    #expect(throws: Errno.noSuchFile) { try Directory.make(path: "\(temporary.path)/a/b") }
    #expect(throws: Errno.noSuchFile) { _ = try Directory(path: "\(temporary.path)/a") }
    _ = try temporary.directory.file("a", for: .replacing)
    #expect(throws: Errno(code: ENOTDIR)) { _ = try Directory(path: "\(temporary.path)/a") }
  }
}
