import Bytes
import LogFixtures
import Posix
import Testing

@testable import Log

/// When a group is large enough for its sync.
@Suite struct GatheringTests {
  private let options = JournalOptions(
    durability: .fsync, segmentBytes: 64 << 10, ringBytes: 16 << 10, groupBytesMax: 4 << 10,
    spareSegments: 1, checkpointSegments: 2)

  /// Somebody alone is served at once, whatever came before: a target of 0 is reached by any record.
  @Test(arguments: [(1, 2400, 0), (1, 120, 0)]) func aLoneCallerNeverWaits(
    records: Int, bytes: UInt64, arrived: UInt64
  ) throws {
    let gathering = try Gathering(options)
    gathering.wrote(records: records, bytes: bytes, arrived: arrived, nanoseconds: 1 << 40)
    // With any target that the next record does not reach, this would sleep for a millisecond, and
    // then ask again; without, it asks once.
    var asked = 0
    let last: () -> UInt64 = {
      asked += 1
      return 1040
    }
    gathering.wait(durable: 1000, last: last, isAppending: { true })
    #expect(asked == 2)
  }

  /// A group that has not gathered in time waits for a client in the middle of appending, and only where one is in it.
  @Test(arguments: [(9_000, true), (9_000, false), (100, true)] as [(UInt64, Bool)])
  func aClientThatAppendsIsWaitedFor(bytes: UInt64, isAppending: Bool) throws {
    let gathering = try Gathering(options)
    gathering.wrote(records: 100, bytes: bytes, arrived: 0, nanoseconds: 1)
    var asked = 0
    let last: () -> UInt64 = { 1100 }
    gathering.wait(durable: 1000, last: last) {
      asked += 1
      // Its turn ends while the thread goes to sleep: the signal must not be lost.
      gathering.request(1100)
      return isAppending
    }
    #expect(asked == (bytes == 100 ? 0 : 1))
    // Nor is it left over: the next sleep ends by its own signal.
    #expect(!gathering.hasSignal)
  }
}
