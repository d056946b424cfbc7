// Stand-ins for the parts that come next: segments. Goes when they are there.
import Posix

final class SegmentPool: Sendable {
  struct Segment {
    let sequence: UInt64
    let file: any StorageFile
  }
  func takeNext() -> Segment? { nil }
  var readyCount: Int { 0 }
  func prepareNext() throws(JournalError) -> Bool { false }
  func retire(before: UInt64) throws(JournalError) {}
  var bytesOnDisk: Int { 0 }
}
