import Glibc
import Posix

/// Nobody on the loopback interface takes this long.
let patienceMilliseconds: Int32 = 10_000

/// Waits until `number` is readable (or writable); false when patience is over.
func waitFor(_ number: Int32, writable: Bool = false) throws -> Bool {
  let poller = try Poller(capacity: 1)
  try poller.add(number, token: 0)
  try poller.modify(number, token: 0, readable: !writable, writable: writable)
  return try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1
}

/// Accepts one connection, waiting for it.
func acceptOne(_ listener: borrowing FileDescriptor) throws -> FileDescriptor {
  guard try waitFor(listener.number), case .connection(let number) = Socket.accept(listener.number)
  else { throw Errno(code: ETIMEDOUT) }
  return FileDescriptor(owning: number)
}

/// Two ends of one connection over the loopback interface.
struct Connected: ~Copyable {
  let client: FileDescriptor
  let server: FileDescriptor

  init(host: String = "127.0.0.1") throws {
    let listener = try Socket.listen(host: host, port: 0)
    let client = try Socket.connect(host: host, port: try Socket.localPort(listener.number))
    self.server = try acceptOne(listener)
    self.client = client
  }
}

/// Sends `bytes` once.
func send(_ bytes: [UInt8], to number: Int32) -> IOResult {
  // The array stays for the length of the call.
  unsafe bytes.withUnsafeBytes { unsafe FileDescriptor.send(number, from: $0) }
}

/// Reads once, `most` bytes at most.
func receive(_ number: Int32, most: Int = 4096) -> (result: IOResult, bytes: [UInt8]) {
  var bytes = [UInt8](repeating: 0, count: most)
  let result = unsafe bytes.withUnsafeMutableBytes {
    unsafe FileDescriptor.read(number, into: $0)
  }
  guard case .moved(let count) = result else { return (result, []) }
  return (result, Array(bytes.prefix(count)))
}
