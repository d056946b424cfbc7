internal import CPlatform
internal import Glibc

/// TCP sockets over IPv4 and IPv6, non-blocking and closed on exec.
package enum Socket {
  /// What accept answered.
  package enum Accepted: Equatable {
    case connection(Int32)
    case wouldBlock
    /// The peer was gone before we looked; there may be more behind it.
    case vanished
    /// Out of descriptors or memory: wait before trying again.
    case exhausted(Errno)
    case failed(Errno)
  }

  /// Listens on `host` (an IP address in text, such as 127.0.0.1 or ::1) and `port` (0: a free one).
  /// Several sockets may listen on one port (SO_REUSEPORT), each served by its own loop.
  package static func listen(host: String, port: UInt16, backlog: Int32 = 4096)
    throws(Errno) -> FileDescriptor
  {
    try listen(host: host, port: port, sharesPort: true, backlog: backlog)
  }

  /// Throws where somebody else listens on the port. SO_REUSEPORT alone would let two servers of one
  /// user share it, each with half of the clients.
  package static func checkUnused(host: String, port: UInt16) throws(Errno) {
    if port != 0 { _ = try listen(host: host, port: port, sharesPort: false, backlog: 1) }
  }

  private static func listen(
    host: String, port: UInt16, sharesPort: Bool, backlog: Int32
  ) throws(Errno) -> FileDescriptor {
    let socket = try bind(host: host, port: port, sharesPort: sharesPort)
    let number = socket.number
    _ = try retrying { Glibc.listen(number, backlog) }
    return socket
  }

  /// Takes `port` (0: a free one) without listening on it: whoever connects is refused. Sockets that
  /// `listen` on it afterwards share it with this one.
  package static func bind(host: String, port: UInt16) throws(Errno) -> FileDescriptor {
    try bind(host: host, port: port, sharesPort: true)
  }

  private static func bind(
    host: String, port: UInt16, sharesPort: Bool
  ) throws(Errno) -> FileDescriptor {
    var address = try Address(host: host, port: port)
    let socket = try open(family: address.family)
    try setOption(socket.number, SOL_SOCKET, SO_REUSEADDR, 1)
    if sharesPort { try setOption(socket.number, SOL_SOCKET, SO_REUSEPORT, 1) }
    if address.family == AF_INET6 {
      try setOption(socket.number, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 0)
    }
    let number = socket.number
    _ = unsafe try address.with { (pointer, length) throws(Errno) in
      try retrying { unsafe Glibc.bind(number, pointer, length) }
    }
    return socket
  }

  /// Starts connecting; the descriptor is writable once that has ended (see `connectError`). A host may be
  /// a unix socket (see `UnixSocket.path(ofHost:)`), and the port is then not used.
  package static func connect(host: String, port: UInt16) throws(Errno) -> FileDescriptor {
    if let path = UnixSocket.path(ofHost: host) { return try UnixSocket.connect(path: path) }
    var address = try Address(host: host, port: port)
    let socket = try open(family: address.family)
    try setOption(socket.number, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    let number = socket.number
    do {
      _ = unsafe try address.with { (pointer, length) throws(Errno) in
        try retrying { unsafe Glibc.connect(number, pointer, length) }
      }
    } catch  where error.code == EINPROGRESS {
    }
    return socket
  }

  /// Why connecting failed (SO_ERROR), or nil.
  package static func connectError(_ number: Int32) -> Errno? {
    var code: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    if unsafe getsockopt(number, SOL_SOCKET, SO_ERROR, &code, &length) != 0 { return .current }
    return code == 0 ? nil : Errno(code: code)
  }

  /// The port that `number` is bound to.
  package static func localPort(_ number: Int32) throws(Errno) -> UInt16 {
    unsafe try port { unsafe getsockname(number, $0, $1) }
  }

  /// The port at the other side of a connected socket.
  package static func peerPort(_ number: Int32) throws(Errno) -> UInt16 {
    unsafe try port { unsafe getpeername(number, $0, $1) }
  }

  private static func port(
    _ ask: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
  ) throws(Errno) -> UInt16 {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let result = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
        unsafe ask(pointer, &length)
      }
    }
    if result != 0 { throw .current }
    // sin_port and sin6_port stand at the same offset.
    return unsafe withUnsafePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { pointer in
        unsafe UInt16(bigEndian: pointer.pointee.sin_port)
      }
    }
  }

  /// Takes one connection off the queue: non-blocking, no delay.
  package static func accept(_ listener: Int32) -> Accepted {
    while true {
      let number = hf_accept(listener)
      if number >= 0 {
        // Without TCP_NODELAY an answer may wait 40 ms for the peer's delayed ACK. Failure is harmless.
        try? setOption(number, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        return .connection(number)
      }
      let error = Errno.current
      switch error.code {
      case EINTR: continue
      case EAGAIN: return .wouldBlock
      // accept(2): network errors of the new socket are passed on as errors of accept.
      case ECONNABORTED, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH,
        EOPNOTSUPP, ENETUNREACH, EPERM:
        return .vanished
      case EMFILE, ENFILE, ENOBUFS, ENOMEM: return .exhausted(error)
      default: return .failed(error)
      }
    }
  }

  /// Says that nothing more will be sent; the peer may still be read.
  package static func endSending(_ number: Int32) { _ = shutdown(number, Int32(SHUT_WR)) }

  /// Lets the kernel find peers that vanished without a word: probes after `idleSeconds` of silence,
  /// and gives up on unacknowledged bytes after `idleSeconds` too (TCP_USER_TIMEOUT).
  package static func detectDeadPeers(_ number: Int32, idleSeconds: Int32) throws(Errno) {
    let tcp = Int32(IPPROTO_TCP)
    try setOption(number, SOL_SOCKET, SO_KEEPALIVE, 1)
    try setOption(number, tcp, TCP_KEEPIDLE, idleSeconds)
    try setOption(number, tcp, TCP_KEEPINTVL, max(1, idleSeconds / 3))
    try setOption(number, tcp, TCP_KEEPCNT, 3)
    try setOption(number, tcp, TCP_USER_TIMEOUT, idleSeconds * 1000)
  }

  private static func open(family: Int32) throws(Errno) -> FileDescriptor {
    let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
    return FileDescriptor(owning: try retrying { socket(family, type, 0) })
  }

  private static func setOption(
    _ number: Int32, _ level: Int32, _ name: Int32, _ value: Int32
  ) throws(Errno) {
    var value = value
    _ = try retrying {
      unsafe setsockopt(number, level, name, &value, socklen_t(MemoryLayout<Int32>.size))
    }
  }
}

/// A socket address made from text.
private struct Address {
  var storage = sockaddr_storage()
  let length: socklen_t
  let family: Int32

  init(host: String, port: UInt16) throws(Errno) {
    var four = sockaddr_in()
    var six = sockaddr_in6()
    if unsafe inet_pton(AF_INET, host, &four.sin_addr) == 1 {
      four.sin_family = sa_family_t(AF_INET)
      four.sin_port = port.bigEndian
      length = socklen_t(MemoryLayout<sockaddr_in>.size)
      family = AF_INET
      unsafe withUnsafeMutableBytes(of: &storage) {
        unsafe $0.storeBytes(of: four, as: sockaddr_in.self)
      }
    } else if let scope = Self.scope(host),
      unsafe inet_pton(AF_INET6, String(host.prefix { $0 != "%" }), &six.sin6_addr) == 1
    {
      six.sin6_scope_id = scope
      six.sin6_family = sa_family_t(AF_INET6)
      six.sin6_port = port.bigEndian
      length = socklen_t(MemoryLayout<sockaddr_in6>.size)
      family = AF_INET6
      unsafe withUnsafeMutableBytes(of: &storage) {
        unsafe $0.storeBytes(of: six, as: sockaddr_in6.self)
      }
    } else {
      throw .invalid
    }
  }

  /// The interface that a link-local address names, as in fe80::1%eth0; 0 without one, nil where there
  /// is no such interface.
  private static func scope(_ host: String) -> UInt32? {
    guard let percent = host.firstIndex(of: "%") else { return 0 }
    let name = String(host[host.index(after: percent)...])
    let index = unsafe if_nametoindex(name)
    return index > 0 ? index : UInt32(name)
  }

  mutating func with<R>(
    _ body: (UnsafePointer<sockaddr>, socklen_t) throws(Errno) -> R
  ) throws(Errno) -> R {
    let length = length
    return unsafe try withUnsafePointer(to: &storage) { (pointer) throws(Errno) -> R in
      let raw = unsafe UnsafeRawPointer(pointer).assumingMemoryBound(to: sockaddr.self)
      return unsafe try body(raw, length)
    }
  }
}
