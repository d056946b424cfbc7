import Log
import Testing

@testable import StorePersistence

@Suite struct FileNameTests {
  @Test(
    "Names of files",
    arguments: [
      (1, "journal-00000000000000000001", "checkpoint-00000000000000000001"),
      (9_876_543_210, "journal-00000000009876543210", "checkpoint-00000000009876543210"),
      (.max, "journal-18446744073709551615", "checkpoint-18446744073709551615"),
    ] as [(UInt64, String, String)])
  func names(number: UInt64, segment: String, checkpoint: String) {
    #expect(FileNames.segment(number) == segment)
    #expect(FileNames.segmentSequence(segment) == number)
    #expect(FileNames.checkpointLSN(segment) == nil)
    #expect(FileNames.checkpoint(number) == checkpoint)
    #expect(FileNames.checkpointLSN(checkpoint) == number)
    #expect(FileNames.segmentSequence(checkpoint) == nil)
  }

  @Test("An empty journal has a checkpoint with the number 0")
  func firstCheckpoint() {
    #expect(FileNames.checkpointLSN(FileNames.checkpoint(0)) == 0)
  }
}
