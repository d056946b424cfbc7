// Look-ups, and a token file that changes while it is used.
import Foundation
import Posix
import Testing

@testable import Access

extension AccessList {
  fileprivate func find(_ token: String, now: Int64 = 0) -> String {
    Self.told(find(token: Array(token.utf8).span, now: now))
  }

  fileprivate func findCertificate(_ name: String, now: Int64 = 0) -> String {
    Self.told(find(certificate: Array(name.utf8).span, now: now))
  }

  private static func told(_ finding: Finding) -> String {
    switch finding {
    case .granted(let grant):
      let caller = grant.withCaller { name in
        String(decoding: name.indices.map { name[$0] }, as: UTF8.self)
      }
      return "\(caller) \(grant.role.name)\(grant.ownHoldsOnly ? " own" : "")"
    case .expired: return "expired"
    case .unknown: return "unknown"
    }
  }
}

private func line(_ token: String, _ words: String) -> String {
  "token sha256:\(Digest(of: Array(token.utf8).span).hexadecimal) \(words)\n"
}

@Suite struct AccessListTests {
  private static let roomy = AccessLimits(
    entriesMax: 10_000, fileBytesMax: 1 << 22, tokenBytesMax: 8192)

  private func list(_ text: String) throws -> AccessList {
    AccessList(
      try TokenFile.parse(Array(text.utf8), limits: Self.roomy), limits: Self.roomy)
  }

  @Test func findsWhatIsThere() throws {
    let long = String(repeating: "t", count: 8192)
    let list = try list(
      line("one", "caller=checkout role=reserve own-holds-only")
        + line("two", "caller=\(String(repeating: "n", count: 64)) role=admin")
        + line("three", "role=read expires=1970-01-02") + line(long, "caller=l role=stock")
        + "cert uri:spiffe://shop/a caller=cert role=stock expires=1970-01-02\n")
    #expect(list.count == 5)
    #expect(list.find("one") == "checkout reserve own")
    #expect(list.find("two") == "\(String(repeating: "n", count: 64)) admin")
    #expect(list.find(long) == "l stock")
    #expect(list.find("three", now: 86_399_999_999_999) == " read")
    #expect(list.find("three", now: 86_400_000_000_000) == "expired")
    #expect(list.findCertificate("uri:spiffe://shop/a") == "cert stock")
    #expect(list.findCertificate("uri:spiffe://shop/a", now: .max) == "expired")
    #expect(list.expiries == [86_400_000_000_000])
  }

  @Test func findsNothingElse() throws {
    let list = try list(line("one", "role=read") + "cert cn:two role=read\n")
    let tooLong = String(repeating: "t", count: 8193)
    for token in ["", "on", "one ", "One", "cn:two", "two", tooLong] {
      #expect(list.find(token) == "unknown", "\(token.prefix(9))")
    }
    // A token is no certificate, and the other way round.
    for name in ["", "one", "two", "uri:two", "cn:two\0", "cn:TWO"] {
      #expect(list.findCertificate(name) == "unknown", "\(name)")
    }
    #expect(try self.list("").find("one") == "unknown")
    // Longer than is hashed, although an entry has its hash.
    #expect(try self.list(line(tooLong, "role=read")).find(tooLong) == "unknown")
  }

  @Test func findsEachOfMany() throws {
    let list = try list(
      (0..<10_000).map { line("token-\($0)", "caller=c\($0) role=stock") }.joined())
    #expect(list.count == 10_000)
    for number in stride(from: 0, to: 10_000, by: 7) {
      #expect(list.find("token-\(number)") == "c\(number) stock")
      #expect(list.find("token-\(number + 10_000)") == "unknown")
    }
  }
}

/// A token file in a folder that goes with the test.
private final class Files {
  let folder: URL
  var path: String { folder.appending(path: "tokens").path() }

  init() throws {
    folder = FileManager.default.temporaryDirectory.appending(path: "holdfast-\(UUID())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
  }

  deinit { try? FileManager.default.removeItem(at: folder) }

  /// In place: the same file has other bytes.
  func write(_ text: String) throws {
    try Data(text.utf8).write(to: URL(filePath: path))
  }

  /// Another file takes its place.
  func replace(_ text: String) throws {
    try text.write(toFile: path, atomically: true, encoding: .utf8)
    try setMode(0o600)
  }

  func setMode(_ mode: Int) throws {
    try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
  }

  func open(now: Int64 = 0) throws -> AccessListFile {
    try AccessListFile(path: path, limits: testLimits, now: now)
  }
}

@Suite struct AccessListFileTests {
  @Test func readsWhatIsPutInItsPlaceAtOnce() throws {
    let files = try Files()
    try files.replace(line("one", "role=read"))
    let file = try files.open()
    #expect(file.generation == 1 && file.warnings.isEmpty)
    #expect(file.poll(now: 0) == .unchanged)
    try files.replace(line("two", "role=read"))
    #expect(file.poll(now: 0) == .replaced(entries: 1, warnings: []))
    #expect(file.generation == 2)
    #expect(file.list.find("one") == "unknown" && file.list.find("two") == " read")
    #expect(file.poll(now: 0) == .unchanged)
  }

  @Test func readsWhatIsWrittenInPlaceAtTheSecondLook() throws {
    let files = try Files()
    try files.replace(line("one", "role=read"))
    let file = try files.open()
    try files.write(line("one", "role=read") + line("two", "role=read"))
    #expect(file.poll(now: 0) == .unchanged)
    #expect(file.poll(now: 0) == .replaced(entries: 2, warnings: []))
    #expect(file.poll(now: 0) == .unchanged)
  }

  @Test func readsAtOnceWhenTold() throws {
    let files = try Files()
    try files.replace(line("one", "role=read"))
    let file = try files.open()
    try files.write(line("one", "role=read") + line("two", "role=read"))
    #expect(file.reload(now: 0) == .replaced(entries: 2, warnings: []))
    #expect(file.generation == 2)
  }

  @Test func theSameBytesChangeNothing() throws {
    let files = try Files()
    try files.replace(line("one", "role=read"))
    let file = try files.open()
    try files.replace(line("one", "role=read"))
    #expect(file.poll(now: 0) == .unchanged)
    #expect(file.reload(now: 0) == .unchanged)
    #expect(file.generation == 1)
  }

  @Test func aBadFileKeepsTheListAndIsToldOnce() throws {
    let files = try Files()
    try files.replace(line("one", "role=read"))
    let file = try files.open()
    try files.replace("token one\n")
    guard case .kept(let why) = file.poll(now: 0) else { return #expect(Bool(false)) }
    #expect(why.contains("\(files.path): line 1: not sha256:"))
    #expect(file.poll(now: 0) == .unchanged)
    #expect(file.reload(now: 0) == .kept(why: why))
    #expect(file.generation == 1 && file.list.find("one") == " read")
    // It goes away, then it comes back as it was.
    try FileManager.default.removeItem(atPath: files.path)
    guard case .kept(let gone) = file.poll(now: 0) else { return #expect(Bool(false)) }
    #expect(gone.hasSuffix("No such file or directory"))
    #expect(file.poll(now: 0) == .unchanged)
    try files.replace(line("one", "role=read"))
    #expect(file.poll(now: 0) == .unchanged)
    #expect(file.list.find("one") == " read")
    try files.replace(line("two", "role=read"))
    #expect(file.poll(now: 0) == .replaced(entries: 1, warnings: []))
  }

  @Test func anExpiryRaisesTheGeneration() throws {
    let files = try Files()
    try files.replace(
      line("one", "role=read expires=1970-01-02") + line("two", "role=read expires=1970-01-03"))
    let day: Int64 = 86_400_000_000_000
    let file = try files.open(now: day - 2)
    #expect(file.poll(now: day - 1) == .unchanged && file.generation == 1)
    #expect(file.poll(now: day) == .unchanged && file.generation == 2)
    #expect(file.poll(now: day + 1) == .unchanged && file.generation == 2)
    #expect(file.poll(now: 9 * day) == .unchanged && file.generation == 3)
    // A clock that is set back makes it good again: that, too, must not be kept.
    #expect(file.poll(now: 0) == .unchanged && file.generation == 4)
  }

  @Test(arguments: [
    (0o600, 0), (0o640, 0), (0o644, 1), (0o620, 1), (0o666, 2),
  ])
  func warnsOfWhoElseHasIt(_ mode: Int, _ count: Int) throws {
    let files = try Files()
    try files.replace(line("one", "role=read"))
    try files.setMode(mode)
    #expect(try files.open().warnings.count == count)
  }

  @Test func whatCannotBeRead() throws {
    let files = try Files()
    #expect(throws: AccessError.self) { try files.open() }
    // Not waited for.
    #expect(unsafe mkfifo(files.path, 0o600) == 0)
    let error = #expect(throws: AccessError.self) { try files.open() }
    #expect(error?.description == "\(files.path): not a regular file")
    try FileManager.default.removeItem(atPath: files.path)
    try files.replace(String(repeating: "\n", count: 5000))
    #expect(throws: AccessError.self) { try files.open() }
    try files.replace("# nobody\n")
    #expect(try files.open().warnings == ["it has no entries: every call is refused"])
  }
}

@Suite struct TokenFileEditorTests {
  private func entry(_ token: String) -> TokenFileEntry {
    TokenFileEntry(
      subject: .token(Digest(of: Array(token.utf8).span)), caller: token, role: .read)
  }

  private func text(_ files: Files) throws -> String {
    try String(contentsOfFile: files.path, encoding: .utf8)
  }

  /// One change. The editor, and with it the lock, goes at the end.
  private func edit(_ files: Files, _ change: (inout TokenFileEditor) -> Void) throws {
    var editor = try TokenFileEditor(path: files.path, limits: testLimits, mayBeNew: true)
    change(&editor)
    try editor.write()
  }

  @Test func addsAndTakesAwayAndLeavesTheRest() throws {
    let files = try Files()
    try edit(files) { $0.append(entry("one")) }
    #expect(try text(files) == entry("one").text + "\n")
    #expect(try FileStatus(path: files.path).mode == 0o600)
    try files.write("# first\r\n" + entry("one").text + "\n\n  # last")
    try files.setMode(0o640)
    try edit(files) { $0.append(entry("two")) }
    #expect(
      try text(files)
        == "# first\r\n" + entry("one").text + "\n\n  # last\n" + entry("two").text + "\n")
    #expect(try FileStatus(path: files.path).mode == 0o640)
    try edit(files) { $0.remove($0.entries.filter { $0.caller == "one" }) }
    #expect(try text(files) == "# first\r\n\n  # last\n" + entry("two").text + "\n")
    #expect(try FileManager.default.contentsOfDirectory(atPath: files.folder.path()) == ["tokens"])
  }

  @Test func replacesWhatALinkLeadsTo() throws {
    let files = try Files()
    let link = files.folder.appending(path: "link").path()
    try files.replace("")
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: "tokens")
    var editor = try TokenFileEditor(path: link, limits: testLimits)
    editor.append(entry("one"))
    try editor.write()
    #expect(try text(files) == entry("one").text + "\n")
    #expect(try FileManager.default.destinationOfSymbolicLink(atPath: link) == "tokens")
  }

  @Test func doesNotTouchAFileWithMistakes() throws {
    let files = try Files()
    try files.replace("token\n")
    #expect(throws: AccessError.self) {
      _ = try TokenFileEditor(path: files.path, limits: testLimits)
    }
    #expect(try text(files) == "token\n")
    #expect(throws: AccessError.self) {
      _ = try TokenFileEditor(path: files.path + "-none", limits: testLimits)
    }
    #expect(throws: AccessError.self) {
      _ = try TokenFileEditor(
        path: files.path + "/under/a/file", limits: testLimits, mayBeNew: true)
    }
  }

  @Test func doesNotWriteAFileThatWouldBeBad() throws {
    let files = try Files()
    try files.replace(entry("one").text + "\n")
    var editor = try TokenFileEditor(path: files.path, limits: testLimits)
    editor.append(entry("one"))
    do throws(AccessError) {
      try editor.write()
      #expect(Bool(false))
    } catch {
      #expect(error.description.contains("the same token"))
    }
    #expect(try text(files) == entry("one").text + "\n")
  }
}
