import Glibc
import Posix
import Testing

@Suite("Unix sockets")
final class UnixSocketTests {
  private let folder: String
  private var path: String { folder + "/s" }

  init() throws {
    var template = Array("/tmp/holdfast-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw Errno(code: errno) }
    folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit {
    _ = unsafe unlink(path)
    _ = unsafe rmdir(folder)
  }

  private var exists: Bool { unsafe access(path, F_OK) == 0 }

  @Test(
    "Hosts that are a unix socket",
    arguments: [
      ("unix:/run/a", "/run/a"), ("unix:///run/a", "/run/a"), ("unix:a", "a"), ("unix:", ""),
      ("unix://run/a", "//run/a"), ("unix", nil), ("127.0.0.1", nil), ("UNIX:/run/a", nil),
      ("/run/a", nil),
    ] as [(String, String?)])
  func hosts(host: String, path: String?) { #expect(UnixSocket.path(ofHost: host) == path) }

  @Test("Bytes go both ways, and the peer is the machine itself")
  func bothWays() throws {
    let listener = try UnixSocket.listen(path: path)
    let client = try Socket.connect(host: "unix:\(path)", port: 0)
    #expect(try waitFor(listener.number))
    guard case .connection(let accepted) = Socket.accept(listener.number) else {
      Issue.record("no connection")
      return
    }
    let server = FileDescriptor(owning: accepted)
    #expect(PeerAddress(ofPeerOf: server.number) == .local)
    #expect(send([1, 2], to: client.number) == .moved(2))
    #expect(receive(server.number).bytes == [1, 2])
    #expect(send([3], to: server.number) == .moved(1))
    #expect(receive(client.number).bytes == [3])
  }

  @Test("A file on which nobody listens is replaced; one on which somebody does is not")
  func replaced() throws {
    do {
      let listener = try UnixSocket.listen(path: path)
      #expect(throws: Errno.alreadyInUse) { try UnixSocket.checkUnused(path: path) }
      #expect(throws: Errno.alreadyInUse) { _ = try UnixSocket.listen(path: path) }
      _ = consume listener
    }
    #expect(exists)
    #expect(throws: Errno(code: ECONNREFUSED)) { _ = try UnixSocket.connect(path: path) }
    try UnixSocket.checkUnused(path: path)
    let listener = try UnixSocket.listen(path: path)
    _ = try UnixSocket.connect(path: path)
    _ = consume listener
  }

  @Test("A listener whose queue is full is in use")
  func busy() throws {
    let listener = try UnixSocket.listen(path: path, backlog: 0)
    var clients: [Int32] = []
    defer { for number in clients { FileDescriptor.close(number: number) } }
    do {
      for _ in 0..<64 { clients.append(try UnixSocket.connect(path: path).take()) }
      Issue.record("the queue has no end")
    } catch {
      #expect(error == Errno(code: EAGAIN))
    }
    #expect(throws: Errno.alreadyInUse) { try UnixSocket.checkUnused(path: path) }
    _ = consume listener
  }

  @Test("Only the file that was made is removed")
  func removed() throws {
    let first = try UnixSocket.listen(path: path)
    _ = unsafe unlink(path)
    let second = try UnixSocket.listen(path: path)
    UnixSocket.remove(first.file)
    #expect(exists)
    UnixSocket.remove(second.file)
    #expect(!exists)
    // It is gone already: nothing happens.
    UnixSocket.remove(second.file)
    _ = (first.number, second.number)
  }

  @Test("Another file is left alone")
  func otherFile() throws {
    let file = FileDescriptor(owning: unsafe open(path, O_CREAT | O_WRONLY, 0o600))
    #expect(file.number >= 0)
    #expect(throws: Errno(code: EEXIST)) { try UnixSocket.checkUnused(path: path) }
    #expect(throws: Errno(code: EEXIST)) { _ = try UnixSocket.listen(path: path) }
    #expect(exists)
  }

  @Test("107 bytes are the longest path")
  func length() throws {
    let longest = folder + "/" + String(repeating: "x", count: 106 - folder.utf8.count)
    let listener = try UnixSocket.listen(path: longest)
    _ = try UnixSocket.connect(path: longest)
    UnixSocket.remove(listener.file)
    #expect(throws: Errno(code: ENAMETOOLONG)) { _ = try UnixSocket.listen(path: longest + "x") }
    #expect(throws: Errno(code: ENAMETOOLONG)) { try UnixSocket.checkUnused(path: longest + "x") }
    #expect(throws: Errno.invalid) { try UnixSocket.checkUnused(path: "") }
    #expect(throws: Errno(code: ENOENT)) { try UnixSocket.checkUnused(path: folder + "/no/s") }
  }
}
