// Which deliveries of a partition are accepted, and how far its position may be told. The broker knows one number for
// each partition, so that a position is told only when everything before it is accepted.

/// A partition of a topic.
struct TopicPartition: Hashable {
  let topic: String
  let number: Int32
}

/// The deliveries of the partitions that are ours for now.
struct DeliveryLedger {
  /// A partition from its assignment until it is revoked; assigned again, it is another one.
  typealias Assignment = UInt64

  private struct Entry {
    let offset: Int64
    var isAccepted = false
  }

  private struct Track {
    let partition: TopicPartition
    /// From the first that is not accepted on; what is before `head` is done with.
    var entries: [Entry] = []
    var head = 0
    /// The number of the entry at `head` within the assignment.
    var first: UInt64 = 0
    var unaccepted = 0
    /// The position behind the last entry of the accepted prefix; nil: none yet.
    var position: Int64?
    /// What the broker was told, and what it has taken.
    var told: Int64?
    var taken: Int64?

    var waiting: Int { entries.count - head }

    mutating func deliver(_ offset: Int64) -> UInt64 {
      entries.append(Entry(offset: offset))
      unaccepted += 1
      return first + UInt64(waiting - 1)
    }

    /// False where there is no such entry, or it is accepted already.
    mutating func accept(_ number: UInt64) -> Bool {
      guard number >= first, number - first < UInt64(waiting) else { return false }
      let index = head + Int(number - first)
      guard !entries[index].isAccepted else { return false }
      entries[index].isAccepted = true
      unaccepted -= 1
      while head < entries.count, entries[head].isAccepted {
        position = entries[head].offset + 1
        head += 1
        first += 1
      }
      // Moving the rest costs no more than what was put in since the last time.
      if head == entries.count || head >= 1024 && head * 2 > entries.count {
        entries.removeFirst(head)
        head = 0
      }
      return true
    }
  }

  /// A tag holds the assignment above this many bits, and the number within it below.
  private static let numberBits: UInt64 = 40

  private var tracks: [Assignment: Track] = [:]
  private var lastAssignment: Assignment = 0
  /// Deliveries that are not accepted, over all partitions.
  private(set) var unaccepted = 0

  mutating func assign(_ partition: TopicPartition) -> Assignment {
    lastAssignment += 1
    tracks[lastAssignment] = Track(partition: partition)
    return lastAssignment
  }

  /// Forgets a partition: its deliveries are no longer ours, and accepting them does nothing.
  mutating func revoke(_ assignment: Assignment) {
    guard let track = tracks.removeValue(forKey: assignment) else { return }
    unaccepted -= track.unaccepted
  }

  /// Deliveries that are not accepted in one partition.
  func unaccepted(in assignment: Assignment) -> Int { tracks[assignment]?.unaccepted ?? 0 }

  /// Deliveries since the first one that is not accepted: what has to be remembered.
  func waiting(in assignment: Assignment) -> Int { tracks[assignment]?.waiting ?? 0 }

  /// Notes a delivery; offsets of a partition rise, with gaps.
  /// - Returns: its tag; nil where the partition is not ours.
  mutating func deliver(_ offset: Int64, of assignment: Assignment) -> UInt64? {
    guard let number = tracks[assignment]?.deliver(offset) else { return nil }
    precondition(number < 1 << Self.numberBits, "too many deliveries of one assignment")
    unaccepted += 1
    return assignment << Self.numberBits | number
  }

  /// Accepts a delivery. A tag of a partition that was revoked, or one that was accepted before, does nothing.
  mutating func accept(_ tag: UInt64) {
    let number = tag & (1 << Self.numberBits - 1)
    if tracks[tag >> Self.numberBits]?.accept(number) == true { unaccepted -= 1 }
  }

  /// Positions that the broker was not told yet, of one partition or of all; from now on it was.
  mutating func positionsToTell(
    of assignments: Set<Assignment>? = nil
  ) -> [(partition: TopicPartition, offset: Int64)] {
    var positions: [(partition: TopicPartition, offset: Int64)] = []
    for (assignment, track) in tracks where assignments?.contains(assignment) ?? true {
      guard let position = track.position, position != track.told else { continue }
      tracks[assignment]?.told = position
      positions.append((track.partition, position))
    }
    return positions
  }

  /// The broker has taken the positions that it was told, or has not: then they are told again.
  mutating func told(_ partition: TopicPartition, _ offset: Int64, isTaken: Bool) {
    for (assignment, track) in tracks where track.partition == partition {
      if isTaken {
        tracks[assignment]?.taken = max(track.taken ?? offset, offset)
      } else if track.told == offset {
        tracks[assignment]?.told = track.taken
      }
    }
  }
}
