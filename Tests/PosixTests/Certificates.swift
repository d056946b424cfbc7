import Foundation
import Glibc
import Posix

/// Certificates made for one test with the `openssl` program, in a folder that goes with this.
final class Certificates: Sendable {
  let folder: String

  init() throws {
    folder = NSTemporaryDirectory() + "/holdfast-tls-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try authority("ca")
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  func path(_ name: String) -> String { "\(folder)/\(name)" }

  /// A CA of its own: NAME.pem and NAME.key.
  func authority(_ name: String) throws {
    try openssl(
      "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
      "2",
      "-subj", "/CN=\(name)", "-keyout", path("\(name).key"), "-out", path("\(name).pem"))
  }

  /// A certificate of `authority`: NAME.pem and NAME.key. `names` as openssl has them, or none.
  @discardableResult
  func make(
    _ name: String, commonName: String = "", names: String = "DNS:localhost,IP:127.0.0.1",
    authority: String = "ca", days: Int = 2
  ) throws -> TLSFiles {
    let subject = commonName.isEmpty ? "/O=test" : "/CN=\(commonName)"
    try openssl(
      "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
      subject, "-keyout", path("\(name).key"), "-out", path("\(name).csr"))
    let extensions = names.isEmpty ? "basicConstraints=CA:FALSE" : "subjectAltName=\(names)"
    try extensions.write(toFile: path("\(name).ext"), atomically: true, encoding: .utf8)
    try openssl(
      "x509", "-req", "-in", path("\(name).csr"), "-CA", path("\(authority).pem"), "-CAkey",
      path("\(authority).key"), "-CAcreateserial", "-days", "\(days)", "-extfile",
      path("\(name).ext"), "-out", path("\(name).pem"))
    return files(name)
  }

  func files(_ name: String, clientAuthority: String? = nil) -> TLSFiles {
    TLSFiles(
      certificate: path("\(name).pem"), key: path("\(name).key"),
      clientAuthority: clientAuthority.map { path("\($0).pem") })
  }

  func copy(_ from: TLSFiles, to name: String) throws {
    for (source, ending) in [(from.certificate, "pem"), (from.key, "key")] {
      try Data(contentsOf: URL(filePath: source))
        .write(to: URL(filePath: path("\(name).\(ending)")), options: .atomic)
    }
  }

  func write(_ text: String, to name: String) throws {
    try text.write(toFile: path(name), atomically: true, encoding: .utf8)
  }

  /// NAME.key, a copy of the key that wants a passphrase.
  func encryptKey(_ name: String, as copy: String) throws {
    try openssl(
      "ec", "-in", path("\(name).key"), "-aes128", "-passout", "pass:secret", "-out",
      path("\(copy).key"))
  }

  /// Starts `openssl s_client`, which sends nothing.
  func startClient(port: UInt16, arguments: [String]) throws -> Process {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["openssl", "s_client", "-connect", "127.0.0.1:\(port)"] + arguments
    process.standardInput = Pipe()
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    return process
  }

  private struct Failed: Error { let text: String }

  private func openssl(_ arguments: String...) throws {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["openssl"] + arguments
    let output = Pipe()
    process.standardError = output
    process.standardOutput = output
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let text = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
      throw Failed(text: String(decoding: text, as: UTF8.self))
    }
  }
}

/// Two transports over one loopback connection, driven by turns on one thread.
@safe final class TransportPair {
  var client: Transport
  var server: Transport
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 256 * 1024, alignment: 16)
  private(set) var clientHandshake = Handshake.wouldBlock(.readable)
  private(set) var serverHandshake = Handshake.wouldBlock(.readable)

  struct NoContext: Error {}

  init(
    server: TLSServerContext?, client: TLSClientContext?, serverName: String = "localhost",
    bufferBytes: Int32? = nil
  ) throws {
    let (clientNumber, serverNumber) = try Self.connect(bufferBytes: bufferBytes)
    guard
      let serverSide = server.map({ $0.accept(serverNumber) }) ?? Transport(plain: serverNumber),
      let clientSide = client.map({ $0.connect(clientNumber, serverName: serverName) })
        ?? Transport(plain: clientNumber)
    else { throw NoContext() }
    self.server = serverSide
    self.client = clientSide
  }

  /// Over the loopback interface; or where `bufferBytes` is given through a pair of unix sockets, whose
  /// buffers are as small as that.
  private static func connect(bufferBytes: Int32?) throws -> (Int32, Int32) {
    guard var bytes = bufferBytes else {
      let listener = try Socket.listen(host: "127.0.0.1", port: 0)
      let client = try Socket.connect(
        host: "127.0.0.1", port: try Socket.localPort(listener.number))
      let server = try acceptOne(listener)
      return (client.take(), server.take())
    }
    var numbers: [Int32] = [-1, -1]
    let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue)
    guard unsafe socketpair(AF_UNIX, type, 0, &numbers) == 0 else { throw Errno(code: errno) }
    for number in numbers {
      unsafe setsockopt(
        number, SOL_SOCKET, SO_SNDBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
    }
    return (numbers[0], numbers[1])
  }

  deinit {
    if client.descriptor >= 0 { client.close() }
    if server.descriptor >= 0 { server.close() }
    unsafe buffer.deallocate()
  }

  // A copy of a transport must not outlive the pair; these are asked while it is there.
  var isResumed: Bool { withExtendedLifetime(self) { server.isResumed && client.isResumed } }
  var subject: String? { withExtendedLifetime(self) { server.peerSubject?.text } }

  /// Drives both handshakes until both have ended, one way or the other.
  func shakeHands() throws {
    let patience = ContinuousClock.now + .seconds(20)
    while ContinuousClock.now < patience {
      if case .wouldBlock = clientHandshake { clientHandshake = client.handshake() }
      if case .wouldBlock = serverHandshake { serverHandshake = server.handshake() }
      // Whoever failed has nothing more to say, and the other may wait for it.
      if case .failed = clientHandshake { client.endSending() }
      if case .failed = serverHandshake { server.endSending() }
      if !isOpen(clientHandshake), !isOpen(serverHandshake) { return }
    }
    throw Errno(code: 110)
  }

  private func isOpen(_ handshake: Handshake) -> Bool {
    if case .wouldBlock = handshake { return true }
    return false
  }

  /// Reads once.
  func read(_ side: KeyPath<TransportPair, Transport>) -> (result: Transfer, bytes: [UInt8]) {
    let result = unsafe self[keyPath: side].read(into: buffer)
    guard case .moved(let count) = result else { return (result, []) }
    return unsafe (result, Array(buffer[..<count]))
  }

  /// Reads until something other than "would block" comes.
  func await(_ side: KeyPath<TransportPair, Transport>) throws -> (
    result: Transfer, bytes: [UInt8]
  ) {
    while true {
      let (result, bytes) = read(side)
      guard case .wouldBlock(let readiness) = result else { return (result, bytes) }
      guard try waitFor(self[keyPath: side].descriptor, writable: readiness == .writable) else {
        return (result, bytes)
      }
    }
  }

  /// Writes once.
  func write(_ side: KeyPath<TransportPair, Transport>, _ bytes: ArraySlice<UInt8>) -> Transfer {
    // The array stays for the length of the call.
    unsafe bytes.withUnsafeBytes { unsafe self[keyPath: side].write(from: $0) }
  }

  /// Sends `bytes` from one side and reads them at the other, whatever the socket takes at a time.
  func transfer(
    _ bytes: [UInt8], from: KeyPath<TransportPair, Transport>,
    to: KeyPath<TransportPair, Transport>
  ) throws -> [UInt8] {
    var sent = 0
    var received: [UInt8] = []
    while received.count < bytes.count {
      if sent < bytes.count {
        switch write(from, bytes[sent...]) {
        case .moved(let count): sent += count
        case .wouldBlock: break
        case .failed(let failure): throw failure
        case .ended: throw NoContext()
        }
      }
      let (result, more) = read(to)
      received += more
      if case .failed(let failure) = result { throw failure }
      if case .ended = result { break }
    }
    return received
  }
}
