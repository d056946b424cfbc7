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

extension FileDescriptor {
  /// Another number for what `number` stands for, closed on exec. The kernel goes on with it until both are
  /// closed; an epoll set that had `number` goes on too, and has to be told first.
  package static func duplicate(_ number: Int32) throws(Errno) -> FileDescriptor {
    FileDescriptor(owning: try retrying { fcntl(number, F_DUPFD_CLOEXEC, 0) })
  }

  /// Opens /dev/null as standard input, output and error where the process was started without them:
  /// otherwise the next files that it opens get these numbers, and what is printed goes into them.
  package static func openStandardStreams() throws(Errno) {
    while true {
      // The lowest number that is free (open(2)).
      let number = try retrying { unsafe open("/dev/null", O_RDWR) }
      if number > 2 { return close(number: number) }
    }
  }

  /// Writes all of `bytes`, for a reader that may be gone or asleep: waits for at most
  /// `patienceMilliseconds` at a time, and not at all where it is 0. How many bytes were written.
  package static func write(
    _ number: Int32, _ bytes: [UInt8], patienceMilliseconds: Int32
  ) -> Int {
    var done = 0
    while done < bytes.count {
      var ready = pollfd(fd: number, events: Int16(POLLOUT), revents: 0)
      guard unsafe poll(&ready, 1, patienceMilliseconds) > 0 else { break }
      // A pipe that is ready takes a page at least without blocking.
      let end = min(bytes.count, done + 4096)
      // The array is ours for the length of the call, and the range is within it.
      let result = unsafe bytes[done..<end].withUnsafeBytes { part in
        #if canImport(Glibc)
          moving { unsafe Glibc.write(number, part.baseAddress, part.count) }
        #else
          moving { unsafe Darwin.write(number, part.baseAddress, part.count) }
        #endif
      }
      guard case .moved(let count) = result, count > 0 else { break }
      done += count
    }
    return done
  }
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
