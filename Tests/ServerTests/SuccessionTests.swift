import Glibc
import Posix
import Server
import Testing

/// Servers that follow each other on one port.
@Suite("Succession")
struct SuccessionTests {
  @Test(
    "A server follows another, and nobody is refused between them",
    arguments: [(1, 1), (2, 2), (1, 3)])
  func follows(before: Int, after: Int) throws {
    let port = try ReservedPort(host: "127.0.0.1", port: 0)
    let first = try Fixture(loops: before, port: port, keepsListening: true)
    let early = try first.connect()
    #expect(try early.call("echo", [1]).messages == [[1]])
    first.stop()
    #expect(try !early.read { _ in false } && early.isClosed && !early.goAways.isEmpty)
    let between = try (0..<40).map { _ in try Client(port: port.number) }
    let second = try Fixture(loops: after, port: port)
    for client in between { #expect(try client.call("echo", [2]).messages == [[2]]) }
    #expect(second.board.read { $0.executed.values.reduce(0, +) } == 40)
    second.stop()
    #expect(try isRefused("127.0.0.1", port.number))
  }

  @Test("A server begins before the one that it follows ends")
  func overlaps() throws {
    let port = try ReservedPort(host: "127.0.0.1", port: 0)
    let first = try Fixture(port: port, keepsListening: true)
    let second = try Fixture(port: port)
    for _ in 0..<40 { #expect(try Client(port: port.number).call("echo").code == 0) }
    first.stop()
    let before = second.board.read { $0.executed.values.reduce(0, +) }
    for _ in 0..<40 { #expect(try Client(port: port.number).call("echo").code == 0) }
    #expect(second.board.read { $0.executed.values.reduce(0, +) } == before + 40)
  }

  @Test("A unix socket is handed on with its file")
  func unixSocket() throws {
    let folder = try SocketFolder()
    let port = try ReservedPort(unixSocket: folder.socket)
    try Fixture(port: port, keepsListening: true).stop()
    let between = try Client(host: port.host, port: 0)
    let second = try Fixture(port: port)
    #expect(try between.call("echo").code == 0)
    second.stop()
    #expect(try isRefused(port.host, 0))
    #expect(!folder.hasSocket)
  }

  @Test("What is left to nobody is closed", arguments: [true, false])
  func closed(byItsEnd: Bool) throws {
    var port: ReservedPort? = try ReservedPort(host: "127.0.0.1", port: 0)
    let number = try #require(port?.number)
    try Fixture(port: port, keepsListening: true).stop()
    #expect(try !isRefused("127.0.0.1", number))
    if byItsEnd { port = nil } else { port?.close() }
    #expect(try isRefused("127.0.0.1", number))
  }

  private func isRefused(_ host: String, _ port: UInt16) throws -> Bool {
    guard let socket = try? Socket.connect(host: host, port: port) else { return true }
    let poller = try Poller(capacity: 1)
    try poller.add(socket.number, token: 0, writable: true)
    #expect(try poller.wait(timeoutMilliseconds: 10_000) == 1)
    return Socket.connectError(socket.number) != nil
  }
}

/// A folder for a unix socket.
final class SocketFolder {
  private let path: String
  var socket: String { path + "/s" }
  var hasSocket: Bool { unsafe access(socket, F_OK) == 0 }

  init() throws {
    var template = Array("/tmp/holdfast-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else { throw Errno(code: errno) }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit {
    _ = unsafe unlink(socket)
    _ = unsafe rmdir(path)
  }
}
