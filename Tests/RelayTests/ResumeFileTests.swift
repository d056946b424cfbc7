// The file in which a relay keeps how far it is.
import Client
import Glibc
import Posix
import Relay
import Testing

struct ResumeFileTests {
  /// In a folder of its own, which is removed.
  private func withFolder(_ body: (String) throws -> Void) throws {
    var template = Array("/tmp/holdfast-resume-XXXXXX\0".utf8CString)
    let made = unsafe template.withUnsafeMutableBufferPointer { buffer in
      unsafe mkdtemp(buffer.baseAddress!).map { unsafe String(cString: $0) }
    }
    let folder = try #require(made)
    defer {
      for name in ["token", "token.lock", "link", "link.lock"] {
        _ = unsafe unlink("\(folder)/\(name)")
      }
      _ = unsafe rmdir(folder)
    }
    try body(folder)
  }

  private func contents(_ path: String) throws -> String {
    String(decoding: try FileContents(path: path, byteCountMax: 4096).bytes, as: UTF8.self)
  }

  @Test func keepsTheNewestToken() throws {
    try withFolder { folder in
      let file = try ResumeFile(path: "\(folder)/token") { _ in }
      #expect(try file.position() == nil)
      try file.start()
      for number in 1...1000 { file.keep("token-\(number)") }
      #expect(file.finish() == nil && file.failures == 0)
      #expect(try contents("\(folder)/token") == "token-1000\n")
      #expect(try file.position() == WatchPosition(.after("token-1000")))
    }
  }

  @Test func isOfOneRelay() throws {
    try withFolder { folder in
      var first: ResumeFile? = try ResumeFile(path: "\(folder)/token") { _ in }
      #expect(throws: ResumeFile.Failure.inUse) {
        try ResumeFile(path: "\(folder)/token") { _ in }
      }
      // A save replaces the file: the lock is another one.
      try first?.start()
      first?.keep("a")
      _ = first?.finish()
      #expect(throws: ResumeFile.Failure.inUse) {
        try ResumeFile(path: "\(folder)/token") { _ in }
      }
      first = nil
      _ = try ResumeFile(path: "\(folder)/token") { _ in }
    }
  }

  @Test func isWhereALinkLeads() throws {
    try withFolder { folder in
      try SavedLine(path: "\(folder)/token").save("a")
      #expect(unsafe symlink("token", "\(folder)/link") == 0)
      let file = try ResumeFile(path: "\(folder)/link") { _ in }
      #expect(throws: ResumeFile.Failure.inUse) {
        try ResumeFile(path: "\(folder)/token") { _ in }
      }
      #expect(try file.position() == WatchPosition(.after("a")))
      try file.start()
      file.keep("b")
      #expect(file.finish() == nil)
      #expect(try contents("\(folder)/token") == "b\n")
      var status = stat()
      #expect(unsafe lstat("\(folder)/link", &status) == 0 && status.st_mode & S_IFMT == S_IFLNK)
    }
  }

  /// What it leads to may be on a disk that is not there: to begin anew would skip or repeat.
  @Test func isNoLinkToNowhere() throws {
    try withFolder { folder in
      #expect(unsafe symlink("nowhere/token", "\(folder)/link") == 0)
      #expect(throws: ResumeFile.Failure.unusable(.noSuchFile)) {
        try ResumeFile(path: "\(folder)/link") { _ in }
      }
    }
  }

  @Test func isNotTooLong() throws {
    try withFolder { folder in
      try SavedLine(path: "\(folder)/token").save(String(repeating: "a", count: 5000))
      let file = try ResumeFile(path: "\(folder)/token") { _ in }
      #expect(throws: ResumeFile.Failure.unusable(.tooLarge)) { try file.position() }
    }
  }

  @Test func saysWhatIsInItsPlace() throws {
    try withFolder { folder in
      try SavedLine(path: "\(folder)/token").save("not a token at all")
      let file = try ResumeFile(path: "\(folder)/token") { _ in }
      #expect(throws: ResumeFile.Failure.noToken) { try file.position() }
    }
    #expect(throws: ResumeFile.Failure.self) { try ResumeFile(path: "/nowhere/token") { _ in } }
    #expect(throws: ResumeFile.Failure.self) { try ResumeFile(path: "") { _ in } }
  }
}
