// One wrapper for what system calls answer: EINTR is retried, "would block" is a value,
// everything else is an Errno that says its name.
#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// The error number of a failed system call (errno(3)).
package struct Errno: Error, Equatable, CustomStringConvertible {
  package let code: Int32

  package init(code: Int32) { self.code = code }

  /// The calling thread's errno, read right after the call that failed.
  static var current: Errno { Errno(code: errno) }

  package static let alreadyInUse = Errno(code: EADDRINUSE)
  package static let notPermitted = Errno(code: EACCES)
  package static let tooManyFiles = Errno(code: EMFILE)
  package static let tooManyFilesInSystem = Errno(code: ENFILE)
  package static let invalid = Errno(code: EINVAL)
  package static let connectionReset = Errno(code: ECONNRESET)
  package static let brokenPipe = Errno(code: EPIPE)
  /// No error of a system call: the name is one of a directory, a pipe, a socket or a device.
  package static let notRegular = Errno(code: -1)
  package static let tooLarge = Errno(code: EFBIG)
  package static let noSpace = Errno(code: ENOSPC)

  /// There was no room for what was to be written: on the disk, in a quota, below the limit of a file's
  /// size.
  package var isLackOfRoom: Bool { [ENOSPC, EDQUOT, EFBIG].contains(code) }

  /// There was not enough of something, and may be later: room, descriptors, memory.
  package var isShortage: Bool { isLackOfRoom || [EMFILE, ENFILE, ENOMEM].contains(code) }

  package var description: String {
    if self == .notRegular { return "not a regular file" }
    // strerror_r wants a buffer; strerror's own is good enough off the hot path and thread-safe in glibc.
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
  }
}

/// What a non-blocking call did.
package enum IOResult: Equatable {
  /// Bytes moved; 0 from a read means the peer has ended its side.
  case moved(Int)
  case wouldBlock
  case failed(Errno)
}

/// Runs `call` until it is not interrupted. -1 becomes an Errno.
@inline(__always)
func retrying(_ call: () -> Int32) throws(Errno) -> Int32 {
  while true {
    let result = call()
    if result != -1 { return result }
    let error = Errno.current
    if error.code != EINTR { throw error }
  }
}

/// Runs `call` until it is not interrupted, and says "would block" apart from failures.
@inline(__always)
func moving(_ call: () -> Int) -> IOResult {
  while true {
    let result = call()
    if result >= 0 { return .moved(result) }
    let code = errno
    if code == EINTR { continue }
    if code == EAGAIN || code == EWOULDBLOCK { return .wouldBlock }
    return .failed(Errno(code: code))
  }
}
