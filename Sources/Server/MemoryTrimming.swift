/// Says when a burst of buffered bytes is over, and its memory worth giving back to the system.
struct MemoryTrimming {
  /// What a loop may keep for the next burst, in bytes.
  static let keptBytes = 16 * 1024 * 1024

  private var peakBytes = 0

  /// Call it now and then with the bytes that are buffered. True once a peak is over that was worth it.
  mutating func isDue(bufferedBytes: Int) -> Bool {
    peakBytes = max(peakBytes, bufferedBytes)
    guard peakBytes - bufferedBytes > Self.keptBytes, bufferedBytes <= peakBytes / 2 else {
      return false
    }
    peakBytes = bufferedBytes
    return true
  }
}
