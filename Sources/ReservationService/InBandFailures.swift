internal import Bytes
internal import GRPC

/// Failures of results by key, as they are on the wire: direct-mapped, so that a new one takes the place of
/// another. In a batch of a flash sale nearly all are the same.
@safe final class InBandFailures {
  private static let entryCount = 256
  private static let bytesMax = 480

  private struct Entry {
    var key = FailureKey(high: 0, low: 0)
    /// 0: there is none.
    var count = 0
    var bytes = InlineArray<480, UInt8>(repeating: 0)
  }

  // Made with the first one: loops without batches do without. Behind a constant pointer, since properties of
  // a class are checked for exclusive access at every use.
  private let entries: UnsafeMutablePointer<UnsafeMutablePointer<Entry>?>

  init() {
    unsafe entries = .allocate(capacity: 1)
    unsafe entries.initialize(to: nil)
  }

  deinit {
    unsafe entries.pointee?.deallocate()
    unsafe entries.deallocate()
  }

  func write(_ key: FailureKey, to writer: ProtoWriter) -> Bool {
    guard let entry = unsafe entries.pointee.map({ unsafe $0 + Self.index(of: key) }),
      unsafe entry.pointee.count > 0 && entry.pointee.key == key
    else { return false }
    unsafe writer.text(entry.pointee.bytes.span.extracting(0..<entry.pointee.count))
    return true
  }

  func keep(_ key: FailureKey, _ bytes: Span<UInt8>) {
    guard bytes.count <= Self.bytesMax else { return }
    if unsafe entries.pointee == nil {
      unsafe entries.pointee = .allocate(capacity: Self.entryCount)
      unsafe entries.pointee?.initialize(repeating: Entry(), count: Self.entryCount)
    }
    guard let entry = unsafe entries.pointee.map({ unsafe $0 + Self.index(of: key) }) else {
      return
    }
    unsafe entry.pointee.key = key
    unsafe entry.pointee.count = bytes.count
    for index in bytes.indices { unsafe entry.pointee.bytes[index] = bytes[index] }
  }

  private static func index(of key: FailureKey) -> Int {
    let mixed = (key.high ^ key.low &* 0x9e37_79b9_7f4a_7c15) &* 0xff51_afd7_ed55_8ccd
    return Int(mixed >> 56)
  }
}
