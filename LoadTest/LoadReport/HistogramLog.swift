// The log that HdrHistogram's tools read: a head, then one line for each interval with all of its
// latencies, in nanoseconds.
//
//   #[Histogram log format version 1.3]
//   #[StartTime: 1763748331.250 (seconds since epoch)]
//   "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//   Tag=warm-up,0.000,1.000,2.147,HISTFAAAA…
//   1.000,1.000,3.211,HISTFAAAA…
//
// Times are seconds, Interval_Max is in milliseconds. Warm-up and drain have a tag, so that tools which
// are not told of it take what was measured. A histogram is, in base64,
//
//   | bytes | big-endian                        |
//   |------:|-----------------------------------|
//   |     4 | 0x1c849314, compressed V2         |
//   |     4 | length of what follows            |
//   |       | zlib (RFC 1950) of:               |
//   |     4 | 0x1c849313, V2                    |
//   |     4 | length of the counts below        |
//   |     4 | normalizing index offset, 0       |
//   |     4 | significant digits, 3             |
//   |     8 | lowest discernible value, 1       |
//   |     8 | highest trackable value           |
//   |     8 | ratio to doubles, 1.0             |
//   |       | counts from the lowest value on   |
//
// where a count is a zigzag LEB128 number, and a negative one is so many counts of zero.
internal import CZlib
package import Posix

/// Writes the log while a run goes on.
package struct HistogramLog: ~Copyable {
  private let file: OutputFile
  private var hasHead = false

  /// Lines go into `file`; what it held goes when the first one comes.
  package init(into file: consuming OutputFile) { self.file = file }

  /// Writes one interval. `startEpochNanoseconds` is when the run's first call was due, of all intervals
  /// the same; the interval's own start counts from there.
  package mutating func write(
    _ interval: Report.Interval, _ latencies: borrowing Latencies, startEpochNanoseconds: Int64
  ) throws(Errno) {
    if !hasHead {
      try file.empty()
      try file.write(HistogramLog.head(startEpochNanoseconds: startEpochNanoseconds))
      hasHead = true
    }
    try file.write(HistogramLog.line(interval, latencies))
  }

  static func head(startEpochNanoseconds: Int64) -> String {
    """
    #[Histogram log format version 1.3]
    #[StartTime: \(fixed(Double(startEpochNanoseconds) / 1e9)) (seconds since epoch)]
    "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"

    """
  }

  static func line(_ interval: Report.Interval, _ latencies: borrowing Latencies) -> String {
    let tag = interval.isMeasured ? "" : "Tag=warm-up,"
    let times = [
      interval.startSeconds, interval.seconds, latencies.summary.max / 1_000,
    ]
    let histogram = base64(compressed(counts(latencies)))
    return tag + times.map(fixed).joined(separator: ",") + ",\(histogram)\n"
  }

  /// With three digits behind the point and nothing between the thousands.
  private static func fixed(_ value: Double) -> String {
    Text.decimal(value, 3).replacing(",", with: "")
  }

  // MARK: Encoding

  /// The V2 encoding.
  static func counts(_ latencies: borrowing Latencies) -> [UInt8] {
    var counts: [UInt8] = []
    var next = 0
    latencies.forEachCount { index, count in
      if index > next { append(zigzag: Int64(next - index), to: &counts) }
      append(zigzag: Int64(clamping: count), to: &counts)
      next = index + 1
    }
    var encoded: [UInt8] = []
    append(UInt32(0x1c84_9313), to: &encoded)
    append(UInt32(clamping: counts.count), to: &encoded)
    append(UInt32(0), to: &encoded)
    append(UInt32(Latencies.significantDigits), to: &encoded)
    append(UInt64(1), to: &encoded)
    append(Latencies.maximumNanoseconds, to: &encoded)
    append(1.0.bitPattern, to: &encoded)
    return encoded + counts
  }

  private static func compressed(_ bytes: [UInt8]) -> [UInt8] {
    var count = compressBound(UInt(bytes.count))
    var packed = [UInt8](repeating: 0, count: Int(count))
    // Z_MEM_ERROR is left of what compress can answer: compressBound gave room enough. Then there is
    // nothing to be written.
    let status = unsafe packed.withUnsafeMutableBufferPointer { room in
      unsafe bytes.withUnsafeBufferPointer {
        unsafe compress(
          room.baseAddress, &count, $0.baseAddress, UInt($0.count))
      }
    }
    guard status == Z_OK else { return [] }
    var encoded: [UInt8] = []
    append(UInt32(0x1c84_9314), to: &encoded)
    append(UInt32(clamping: count), to: &encoded)
    return encoded + packed.prefix(Int(count))
  }

  private static func append(_ number: some FixedWidthInteger, to bytes: inout [UInt8]) {
    for shift in stride(from: number.bitWidth - 8, through: 0, by: -8) {
      bytes.append(UInt8(truncatingIfNeeded: number >> shift))
    }
  }

  /// Seven bits a byte, the lowest first; the ninth byte has eight.
  private static func append(zigzag number: Int64, to bytes: inout [UInt8]) {
    var rest = UInt64(bitPattern: (number << 1) ^ (number >> 63))
    for _ in 0..<8 where rest > 0x7F {
      bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    bytes.append(UInt8(truncatingIfNeeded: rest))
  }

  static func base64(_ bytes: [UInt8]) -> String {
    let letters = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let group = bytes[start..<min(start + 3, bytes.count)]
      var bits = group.reduce(0) { $0 << 8 | Int($1) }
      bits <<= 8 * (3 - group.count)
      for place in 0..<4 {
        let letter = letters[bits >> (18 - 6 * place) & 63]
        text.append(place <= group.count ? letter : UInt8(ascii: "="))
      }
    }
    return String(decoding: text, as: UTF8.self)
  }
}
