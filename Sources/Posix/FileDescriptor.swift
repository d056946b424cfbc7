#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// An open descriptor, closed when it goes out of scope. `take` hands the number to another owner.
package struct FileDescriptor: ~Copyable, Sendable {
  package let number: Int32

  /// Owns `number` from here on; it must be open and owned by nobody else.
  package init(owning number: Int32) { self.number = number }

  deinit { FileDescriptor.close(number: number) }

  /// Gives up ownership: the caller closes the number, or hands it on.
  package consuming func take() -> Int32 {
    let number = number
    discard self
    return number
  }

  /// Closes a number that `take` handed out.
  package static func close(number: Int32) { closeDescriptor(number) }
}

/// close(2); its result is of no use: the descriptor is gone either way (Linux man page).
private func closeDescriptor(_ number: Int32) { _ = close(number) }

extension FileDescriptor {
  /// read(2) into `buffer`, without blocking on a non-blocking descriptor.
  package static func read(_ number: Int32, into buffer: UnsafeMutableRawBufferPointer) -> IOResult
  {
    // The buffer is the caller's for the length of the call.
    #if canImport(Glibc)
      moving { unsafe Glibc.read(number, buffer.baseAddress, buffer.count) }
    #else
      moving { unsafe Darwin.read(number, buffer.baseAddress, buffer.count) }
    #endif
  }

  /// send(2) without SIGPIPE: a peer that is gone is an Errno.
  package static func send(_ number: Int32, from buffer: UnsafeRawBufferPointer) -> IOResult {
    #if canImport(Glibc)
      let flags = Int32(MSG_NOSIGNAL)
      return moving { unsafe Glibc.send(number, buffer.baseAddress, buffer.count, flags) }
    #else
      return moving { unsafe Darwin.send(number, buffer.baseAddress, buffer.count, 0) }
    #endif
  }
}
