// Stand-ins for the parts that come next: format, segments, checkpoints. Goes when they are there.
import Posix

func hf_crc32c(_ a: UInt32, _ p: UnsafeRawPointer?, _ n: Int) -> UInt32 { a }
struct StoreID: Equatable, Sendable {
  var low: UInt64
  var high: UInt64
}
struct JournalKey: Sendable { func salt(sequence: UInt64, run: UInt32) -> UInt32 { 0 } }
enum SegmentHeader { static let blockBytes = 4096 }
enum FileNames {
  static let newCheckpoint = "checkpoint.tmp"
  static func segment(_ s: UInt64) -> String { "journal-\(s)" }
  static func segmentSequence(_ name: String) -> UInt64? { UInt64(name.dropFirst(8)) }
  static func checkpoint(_ lsn: UInt64) -> String { "checkpoint-\(lsn)" }
  static func checkpointLSN(_ name: String) -> UInt64? { UInt64(name.dropFirst(11)) }
}
struct BatchHeader {
  static let byteCount = 48
  enum Kind: UInt8 {
    case records = 0
    case end
  }
  var lsn: UInt64, payloadLength: Int, recordCount: Int, payloadCRC: UInt32, kind: Kind,
    run: UInt32, time: Int64
  func write(to: UnsafeMutableRawPointer, salt: UInt32) {}
}
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
