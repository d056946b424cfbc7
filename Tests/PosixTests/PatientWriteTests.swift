import Glibc
import Posix
import Testing

@Suite("Writing for a reader that may be gone or asleep")
struct PatientWriteTests {
  private struct Pipe: ~Copyable {
    let reader: FileDescriptor
    let writer: FileDescriptor

    init() throws {
      var numbers: [Int32] = [0, 0]
      let result = unsafe pipe(&numbers)
      try #require(result == 0)
      reader = FileDescriptor(owning: numbers[0])
      writer = FileDescriptor(owning: numbers[1])
    }

    consuming func withoutReader() -> FileDescriptor { writer }
  }

  @Test("All is written where there is room", arguments: [0, 1, 4095, 4096, 4097, 20_000])
  func room(count: Int) throws {
    let pipe = try Pipe()
    let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
    #expect(FileDescriptor.write(pipe.writer.number, bytes, patienceMilliseconds: 0) == count)
    if count > 0 { #expect(receive(pipe.reader.number, most: count + 1).bytes == bytes) }
  }

  @Test("A reader that is asleep is waited for, and not for ever", arguments: [0, 20] as [Int32])
  func asleep(patience: Int32) throws {
    let pipe = try Pipe()
    let bytes = [UInt8](repeating: 1, count: 1 << 22)
    let count = FileDescriptor.write(pipe.writer.number, bytes, patienceMilliseconds: patience)
    #expect(count > 0 && count < bytes.count)
    #expect(FileDescriptor.write(pipe.writer.number, [1], patienceMilliseconds: patience) == 0)
    // It wakes.
    #expect(receive(pipe.reader.number, most: count).bytes.count == count)
    #expect(FileDescriptor.write(pipe.writer.number, [1], patienceMilliseconds: patience) == 1)
  }

  @Test("A reader that is gone is no signal and no error")
  func gone() throws {
    Signals.makeFailedWritesErrors()
    let writer = try Pipe().withoutReader()
    #expect(FileDescriptor.write(writer.number, [1, 2], patienceMilliseconds: 20) == 0)
    #expect(FileDescriptor.write(-1, [1, 2], patienceMilliseconds: 0) == 0)
  }
}
