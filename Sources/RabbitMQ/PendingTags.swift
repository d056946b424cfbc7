// What was published and is not confirmed, and what was delivered and is not accepted: by the tags that broker and client
// count on a channel, 1 and on.

/// Values of consecutive tags, of which the lowest go first.
struct TagQueue<Value> {
  /// The lowest tag that is in it, or the next one.
  private(set) var first: UInt64 = 1
  private(set) var count = 0
  private var ring: [Value]
  private var head = 0
  private let filler: Value

  /// - Parameter filler: what places without a tag have.
  init(filler: Value) {
    self.filler = filler
    ring = Array(repeating: filler, count: 64)
  }

  /// The tag of the next value.
  var end: UInt64 { first + UInt64(count) }

  func contains(_ tag: UInt64) -> Bool { first <= tag && tag < end }

  private func place(_ tag: UInt64) -> Int {
    precondition(contains(tag), "no such tag")
    return (head + Int(tag - first)) & (ring.count - 1)
  }

  subscript(tag: UInt64) -> Value {
    get { ring[place(tag)] }
    set { ring[place(tag)] = newValue }
  }

  mutating func append(_ value: Value) {
    if count == ring.count {
      ring = Array(ring[head...] + ring[..<head]) + Array(repeating: filler, count: count)
      head = 0
    }
    ring[(head + count) & (ring.count - 1)] = value
    count += 1
  }

  mutating func removeFirst() -> Value {
    let value = self[first]
    ring[head] = filler
    head = (head + 1) & (ring.count - 1)
    first += 1
    count -= 1
    return value
  }
}

/// Messages that the broker has not answered.
struct PendingConfirms {
  private struct Entry {
    /// The message's number for our caller; 0: it was answered.
    var number: UInt64
    /// What a returned message is known by; 0: it cannot be returned.
    var mark: UInt64
    var isReturned = false
  }

  private var entries = TagQueue(filler: Entry(number: 0, mark: 0))
  /// Of returned ones, by tag: why.
  private var reasons: [UInt64: String] = [:]
  /// The newest tag.
  var newest: UInt64 { entries.end - 1 }

  /// A message that goes out.
  mutating func append(number: UInt64, mark: UInt64) {
    entries.append(Entry(number: number, mark: mark))
  }

  /// The broker could not route a message: the oldest one with that mark that was not returned yet, if there is one.
  mutating func markReturned(_ mark: UInt64, because text: String) {
    var tag = entries.first
    while tag < entries.end {
      let entry = entries[tag]
      if entry.number != 0, entry.mark == mark, !entry.isReturned {
        entries[tag].isReturned = true
        reasons[tag] = text
        return
      }
      tag += 1
    }
  }

  /// One answered message.
  struct Answered {
    let number: UInt64
    /// Why it came back; nil: it did not.
    let returned: String?
  }

  /// The next one that an answer is about; nil: there is none any more. Answers come once: a tag that was answered has no
  /// more messages.
  mutating func next(_ tag: UInt64, multiple: Bool) -> Answered? {
    while multiple, entries.contains(tag) {
      let place = entries.first
      let entry = entries.removeFirst()
      if entry.number != 0 { return answered(place, entry) }
    }
    guard !multiple, entries.contains(tag) else { return nil }
    let entry = entries[tag]
    entries[tag].number = 0
    while entries.count > 0, entries[entries.first].number == 0 { _ = entries.removeFirst() }
    return entry.number == 0 ? nil : answered(tag, entry)
  }

  private mutating func answered(_ tag: UInt64, _ entry: Entry) -> Answered {
    return Answered(
      number: entry.number, returned: entry.isReturned ? reasons.removeValue(forKey: tag) : nil)
  }
}

/// Messages that were delivered, and what is to be told of them.
struct PendingAccepts {
  private enum State {
    case unaccepted
    case accepted
    case told
  }

  private var states = TagQueue(filler: State.told)
  /// Accepted since it was last told, in any order.
  private var untold: [UInt64] = []
  private(set) var unaccepted = 0

  /// A delivery. False: its tag is not the next one.
  mutating func append(_ tag: UInt64) -> Bool {
    guard tag == states.end else { return false }
    states.append(.unaccepted)
    unaccepted += 1
    return true
  }

  /// Nothing for a tag that was accepted already, or that never was.
  mutating func accept(_ tag: UInt64) {
    guard states.contains(tag), states[tag] == .unaccepted else { return }
    states[tag] = .accepted
    unaccepted -= 1
    untold.append(tag)
  }

  /// What the broker has to be told: as few words as possible.
  mutating func tell(_ acknowledge: (_ tag: UInt64, _ multiple: Bool) -> Void) {
    if untold.isEmpty { return }
    // One word for those at the front that were not told yet: it names the last of them, for the broker knows no other.
    var (last, count): (UInt64, Int) = (0, 0)
    while states.count > 0, states[states.first] != .unaccepted {
      let tag = states.first
      if states.removeFirst() == .accepted { (last, count) = (tag, count + 1) }
    }
    if count > 0 { acknowledge(last, count > 1) }
    if count < untold.count {
      for tag in untold where tag >= states.first {
        states[tag] = .told
        acknowledge(tag, false)
      }
    }
    untold.removeAll(keepingCapacity: true)
  }
}
