// The bytes of one simulated file: as a process sees them, as the disk has them, and what lies between.
#if canImport(Glibc)
  internal import Glibc
#else
  internal import Darwin
#endif

/// What one power cut does to most of what was not synced: to mix kept and lost evenly every time would
/// leave out the cuts that keep all, or nothing.
struct Mood {
  /// Of a hundred writes and changes of the directory: how many are kept, and how many of the rest are
  /// torn.
  private let keptPercent: Int
  private let tornPercent: Int

  init(random: inout SeededRandom) {
    keptPercent = random.pick([0, 10, 50, 90, 100])
    tornPercent = random.pick([0, 50, 100, 100])
  }

  func keeps(_ random: inout SeededRandom) -> Bool { random.chance(keptPercent) }

  func tears(_ random: inout SeededRandom) -> Bool { random.chance(tornPercent) }
}

final class SimulatedContents {
  private struct Write {
    let offset: Int
    let bytes: [UInt8]
  }

  private static let sectorBytes = 512

  private(set) var visible: [UInt8]
  /// Open files of those who read beside the process that writes.
  var readers = 0
  private var durable: [UInt8]
  private var unsynced: [Write] = []

  /// A file with these bytes, all of them synced.
  init(_ bytes: [UInt8]) {
    visible = bytes
    durable = bytes
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
    guard offset >= 0, offset < visible.count else { return 0 }
    let count = min(buffer.count, visible.count - offset)
    unsafe visible.withUnsafeBytes { bytes in
      unsafe buffer.copyMemory(
        from: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count]))
    }
    return count
  }

  func write(_ bytes: [UInt8], at offset: Int) {
    if bytes.isEmpty { return }
    Self.put(bytes[...], into: &visible, at: offset)
    unsynced.append(Write(offset: offset, bytes: bytes))
  }

  func sync() {
    for write in unsynced { Self.put(write.bytes[...], into: &durable, at: write.offset) }
    unsynced.removeAll(keepingCapacity: true)
  }

  /// Some of the writes become durable.
  /// - Parameter isLosing: the others never will, though everybody sees them.
  func syncPartly(isLosing: Bool, _ random: inout SeededRandom) {
    var left: [Write] = []
    for write in unsynced {
      if random.chance(50) {
        Self.put(write.bytes[...], into: &durable, at: write.offset)
      } else {
        left.append(write)
      }
    }
    unsynced = isLosing ? [] : left
  }

  /// What was not synced is kept, dropped or torn, in any order.
  func losePower(_ mood: Mood, _ random: inout SeededRandom) {
    for write in unsynced.shuffled(using: &random) {
      if mood.keeps(&random) {
        Self.put(write.bytes[...], into: &durable, at: write.offset)
      } else {
        // The length may outlive the bytes.
        if random.chance(30) {
          Self.put([], into: &durable, at: write.offset + write.bytes.count)
        }
        if mood.tears(&random) { tear(write, &random) }
      }
    }
    unsynced = []
    visible = durable
  }

  /// Tears the part of the write that changes anything: most of what the journal writes, it writes again.
  private func tear(_ write: Write, _ random: inout SeededRandom) {
    let changed = changedRange(write)
    let cut = random.number(changed.lowerBound...changed.upperBound)
    switch random.number(0...5) {
    case 0...2: Self.put(write.bytes[..<cut], into: &durable, at: write.offset)
    case 3: Self.put(write.bytes[cut...], into: &durable, at: write.offset + cut)
    default:
      let percent = random.pick([10, 50, 90])
      var start = changed.lowerBound
      while start < changed.upperBound {
        let inSector = (write.offset + start) % Self.sectorBytes
        let end = min(changed.upperBound, start + Self.sectorBytes - inSector)
        if random.chance(percent) {
          Self.put(write.bytes[start..<end], into: &durable, at: write.offset + start)
        }
        start = end
      }
    }
  }

  /// From the first to the last byte that is not on the disk already.
  private func changedRange(_ write: Write) -> Range<Int> {
    func isChanged(_ index: Int) -> Bool {
      let place = write.offset + index
      return place >= durable.count || durable[place] != write.bytes[index]
    }
    guard let first = write.bytes.indices.first(where: isChanged),
      let last = write.bytes.indices.last(where: isChanged)
    else { return 0..<0 }
    return first..<(last + 1)
  }

  /// Puts `part` at `offset`, with zeros before it where the file is shorter.
  private static func put(_ part: ArraySlice<UInt8>, into bytes: inout [UInt8], at offset: Int) {
    if offset + part.count > bytes.count { bytes = lengthened(bytes, to: offset + part.count) }
    unsafe bytes.withUnsafeMutableBytes { bytes in
      unsafe part.withUnsafeBytes { part in
        if let base = bytes.baseAddress, let from = part.baseAddress {
          // The file was made long enough above.
          unsafe (base + offset).copyMemory(from: from, byteCount: part.count)
        }
      }
    }
  }

  /// With zeros at the end. In one piece: debug builds are slow with one byte after the other.
  private static func lengthened(_ bytes: [UInt8], to count: Int) -> [UInt8] {
    unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initializedCount in
      // The buffer has room for `count` bytes, which is more than there are.
      guard let base = buffer.baseAddress else { return }
      unsafe memset(base, 0, count)
      unsafe bytes.withUnsafeBytes { old in
        if let from = old.baseAddress { unsafe memcpy(base, from, old.count) }
      }
      initializedCount = count
    }
  }
}
