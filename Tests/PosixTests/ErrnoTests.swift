import Glibc
import Testing

@testable import Posix

@Suite("Errno and descriptors")
struct ErrnoTests {
  @Test(
    "Errors say their name",
    arguments: [
      (Errno.alreadyInUse, "Address already in use"), (.notPermitted, "Permission denied"),
      (.tooManyFiles, "Too many open files"), (.invalid, "Invalid argument"),
      (.connectionReset, "Connection reset by peer"), (.brokenPipe, "Broken pipe"),
      (.tooManyFilesInSystem, "Too many open files in system"),
    ])
  func text(error: Errno, text: String) { #expect(error.description == text) }

  @Test("An unknown number has a text too")
  func unknown() { #expect(Errno(code: 99_999).description.contains("99999")) }

  @Test("Interrupted calls are made again")
  func interrupted() throws {
    var calls = 0
    let result = try retrying {
      calls += 1
      errno = EINTR
      return calls < 3 ? -1 : 7
    }
    #expect(result == 7)
    #expect(calls == 3)
    calls = 0
    let moved = moving {
      calls += 1
      errno = EINTR
      return calls < 3 ? -1 : 9
    }
    #expect(moved == .moved(9))
    #expect(calls == 3)
  }

  @Test("Would block is a value, the rest are errors")
  func outcomes() {
    func outcome(_ code: Int32) -> IOResult {
      moving {
        errno = code
        return -1
      }
    }
    #expect(outcome(EAGAIN) == .wouldBlock)
    #expect(outcome(EWOULDBLOCK) == .wouldBlock)
    #expect(outcome(ECONNRESET) == .failed(.connectionReset))
    #expect(moving { 0 } == .moved(0))
    #expect(throws: Errno(code: EAGAIN)) {
      try retrying {
        errno = EAGAIN
        return -1
      }
    }
  }

  /// An open descriptor with a number so high that no test at the same time is given it again.
  private static func highDescriptor() throws -> Int32 {
    let wakeup = try Wakeup()
    return try retrying { fcntl(wakeup.number, F_DUPFD_CLOEXEC, 800) }
  }

  private static func isOpen(_ number: Int32) -> Bool { fcntl(number, F_GETFD) != -1 }

  @Test("A descriptor is closed when it goes out of scope, and not before")
  func scope() throws {
    let number = try Self.highDescriptor()
    do {
      let descriptor = FileDescriptor(owning: number)
      #expect(Self.isOpen(descriptor.number))
    }
    #expect(!Self.isOpen(number))
  }

  @Test("A number that was taken stays open")
  func taken() throws {
    let connected = try Connected()
    let number = try retrying { fcntl(connected.client.number, F_DUPFD_CLOEXEC, 900) }
    do {
      let descriptor = FileDescriptor(owning: number)
      #expect(descriptor.take() == number)
    }
    #expect(Self.isOpen(number))
    FileDescriptor.close(number: number)
    #expect(!Self.isOpen(number))
  }

  @Test("Reading and sending on what is closed are errors")
  func closed() {
    #expect(receive(-1).result == .failed(Errno(code: EBADF)))
    #expect(send([1], to: -1) == .failed(Errno(code: EBADF)))
  }
}
