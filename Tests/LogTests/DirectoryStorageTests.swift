import Bytes
import Glibc
import LogFixtures
import Posix
import Testing

@testable import Log

@Suite("A data directory of the file system")
struct DirectoryStorageTests {
  /// A path that does not exist yet.
  private static func newPath() -> String {
    "/tmp/holdfast-storage-\(Machine.random64())"
  }

  private static func remove(_ path: String) {
    guard let directory = try? Directory(path: path) else { return }
    for name in (try? directory.names()) ?? [] { try? directory.remove(name) }
    unsafe rmdir(path)
  }

  private static func write(_ text: String, to file: any StorageFile, at offset: Int) throws(Errno)
  {
    try unsafe Array(text.utf8).span.withUnsafeBytes { (bytes) throws(Errno) in
      try unsafe file.write(bytes, at: offset)
    }
  }

  private static func text(_ file: any StorageFile) throws(Errno) -> String {
    var bytes = [UInt8](repeating: 0, count: 100)
    var span = bytes.mutableSpan
    let count = try unsafe span.withUnsafeMutableBytes { (bytes) throws(Errno) in
      try unsafe file.read(into: bytes, at: 0)
    }
    return String(decoding: bytes.prefix(count), as: UTF8.self)
  }

  @Test("An owner makes the directory; files keep what is written")
  func owner() throws {
    let path = Self.newPath()
    defer { Self.remove(path) }
    let storage = try DirectoryStorage(path: path, access: .owner)
    let file = try storage.create("one")
    try Self.write("hello", to: file, at: 0)
    try Self.write("HE", to: file, at: 0)
    try file.sync()
    #expect(try Self.text(try storage.open("one")) == "HEllo")
    try storage.rename("one", to: "two")
    try storage.syncDirectory()
    #expect(try storage.names().sorted() == ["lock", "two"])
    try Self.write("!", to: try storage.open("two"), at: 5)
    #expect(try Self.text(file) == "HEllo!")
    #expect(try file.byteCount() == 6)
    _ = try storage.create("two")
    #expect(try Self.text(try storage.open("two")) == "")
    try storage.remove("two")
    #expect(throws: Errno.noSuchFile) { try storage.open("two") }
    #expect(throws: Errno.noSuchFile) { try storage.remove("two") }
    #expect(throws: Errno.noSuchFile) { try storage.rename("two", to: "three") }
  }

  @Test("One owner at a time, and any number of readers beside it")
  func lock() throws {
    let path = Self.newPath()
    defer { Self.remove(path) }
    do {
      let owner = try DirectoryStorage(path: path, access: .owner)
      #expect(throws: JournalError.inUse(path: path)) {
        try DirectoryStorage(path: path, access: .owner)
      }
      let reader = try DirectoryStorage(path: path, access: .reader)
      let another = try DirectoryStorage(path: path, access: .reader)
      #expect(try reader.names() == another.names() && reader.names() == owner.names())
    }
    let reader = try DirectoryStorage(path: path, access: .reader)
    _ = try DirectoryStorage(path: path, access: .owner)
    #expect(try reader.names() == ["lock"])
  }

  @Test("A file that is read is not used again")
  func reuse() throws {
    let path = Self.newPath()
    defer { Self.remove(path) }
    let owner = try DirectoryStorage(path: path, access: .owner)
    let file = try owner.create("one")
    let reader = try DirectoryStorage(path: path, access: .reader)
    #expect(file.takeForReuse())
    #expect(throws: Errno.tryAgain) { try reader.open("one") }
    file.release()
    do {
      let read = try reader.open("one")
      #expect(!file.takeForReuse())
      #expect(try read.byteCount() == 0)
    }
    #expect(file.takeForReuse())
  }

  @Test("The directory is locked, whatever becomes of the lock file")
  func lockWithoutFile() throws {
    let path = Self.newPath()
    defer { Self.remove(path) }
    let owner = try DirectoryStorage(path: path, access: .owner)
    try owner.remove("lock")
    #expect(throws: JournalError.inUse(path: path)) {
      try DirectoryStorage(path: path, access: .owner)
    }
    // Who replaces a file in it, a token file for instance, does not wait for that.
    try owner.create("lock").sync()
    let editor = try LockedDirectory(path: path)
    try editor.replace("tokens", with: [1])
    #expect(try owner.names().contains("tokens"))
  }

  enum Displacement: CaseIterable {
    case nothing, renamed, removed, replaced, parentRemoved, fileRemoved, fileRenamed, fileReplaced
  }

  @Test("What is no longer where a start would look is found", arguments: Displacement.allCases)
  func displacement(_ displacement: Displacement) throws {
    let parent = Self.newPath()
    let (path, aside) = ("\(parent)/data", "\(parent)/aside")
    #expect(try Directory.make(path: parent))
    defer { for path in [path, aside, parent] { Self.remove(path) } }
    let storage = try DirectoryStorage(path: path, access: .owner)
    let files = [NamedFile("one", try storage.create("one")), NamedFile("lock")]
    var newParent: String?
    switch displacement {
    case .nothing: break
    case .renamed: unsafe rename(path, aside)
    case .removed:
      for name in try storage.names() { try storage.remove(name) }
      unsafe rmdir(path)
    case .replaced:
      unsafe rename(path, aside)
      try DirectoryStorage(path: path, access: .owner).create("one").sync()
    case .parentRemoved:
      newParent = parent + "-aside"
      unsafe rename(parent, newParent)
      close(unsafe open(parent, O_CREAT, 0o600))
    case .fileRemoved: try storage.remove("one")
    case .fileRenamed: try storage.rename("one", to: "two")
    case .fileReplaced:
      try storage.create("new").sync()
      try storage.rename("new", to: "one")
    }
    let finding = try storage.displacement(of: files)
    #expect((finding == nil) == (displacement == .nothing), "\(finding ?? "nothing")")
    if let newParent {
      unsafe unlink(parent)
      unsafe rename(newParent, parent)
    }
  }

  @Test("A reader changes nothing")
  func reader() throws {
    let path = Self.newPath()
    defer { Self.remove(path) }
    do {
      let owner = try DirectoryStorage(path: path, access: .owner)
      try Self.write("hello", to: try owner.create("one"), at: 0)
    }
    let reader = try DirectoryStorage(path: path, access: .reader)
    let file = try reader.open("one")
    #expect(throws: Errno.self) { try Self.write("x", to: file, at: 0) }
    #expect(throws: Errno.readOnly) { try reader.create("two") }
    #expect(throws: Errno.readOnly) { try reader.create("one") }
    #expect(throws: Errno.readOnly) { try reader.rename("one", to: "two") }
    #expect(throws: Errno.readOnly) { try reader.remove("one") }
    #expect(throws: Errno.readOnly) { try reader.syncDirectory() }
    #expect(try reader.names().sorted() == ["lock", "one"])
    #expect(try Self.text(file) == "hello")
  }

  @Test("A copy without a lock can be read, and gets no lock of it")
  func copy() throws {
    let path = Self.newPath()
    defer { Self.remove(path) }
    #expect(try Directory.make(path: path))
    let reader = try DirectoryStorage(path: path, access: .reader)
    #expect(try reader.names() == [])
  }

  @Test("Directories that cannot be")
  func impossible() throws {
    let path = Self.newPath()
    #expect(
      throws: JournalError.failed(operation: "open the directory", file: path, .noSuchFile)
    ) { try DirectoryStorage(path: path, access: .reader) }
    #expect(
      throws: JournalError.failed(
        operation: "open the directory", file: "\(path)/deep", .noSuchFile)
    ) { try DirectoryStorage(path: "\(path)/deep", access: .owner) }
    #expect(throws: JournalError.self) {
      try DirectoryStorage(path: "/dev/null", access: .owner)
    }
    #expect(throws: JournalError.self) { try DirectoryStorage(path: "", access: .owner) }
  }
}
