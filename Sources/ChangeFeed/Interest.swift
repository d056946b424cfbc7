// What is worth being made an event: of what nobody wants to see, no more is read than its kind and its items.

/// Which events any of some watchers wants.
struct Interest {
  /// By the kinds' numbers.
  private var watchesByKind = [Int](repeating: 0, count: 1 + Int(EventKind.removed.rawValue))
  /// Of those that any wants: bits.
  private var kinds: UInt32 = 0
  private var watchesWithoutItems = 0
  private var watchesByItem: [UInt64: Int] = [:]

  init() {}

  init(_ filter: EventFilter) {
    _ = add(filter)
  }

  /// True where something is wanted now that nobody has wanted before.
  mutating func add(_ filter: EventFilter) -> Bool {
    var isNew = false
    for kind in EventKind.allCases where filter.takes(kind) {
      watchesByKind[Int(kind.rawValue)] += 1
      if watchesByKind[Int(kind.rawValue)] == 1 {
        isNew = true
        kinds |= kind.bit
      }
    }
    if filter.items.isEmpty {
      watchesWithoutItems += 1
      return isNew || watchesWithoutItems == 1
    }
    for item in filter.items {
      watchesByItem[item, default: 0] += 1
      if watchesByItem[item] == 1 { isNew = true }
    }
    return isNew
  }

  mutating func remove(_ filter: EventFilter) {
    for kind in EventKind.allCases where filter.takes(kind) {
      watchesByKind[Int(kind.rawValue)] -= 1
      if watchesByKind[Int(kind.rawValue)] == 0 { kinds &= ~kind.bit }
    }
    if filter.items.isEmpty { watchesWithoutItems -= 1 }
    for item in filter.items {
      let count = watchesByItem[item, default: 1] - 1
      watchesByItem[item] = count == 0 ? nil : count
    }
  }

  func takes(_ kind: EventKind) -> Bool { kinds & kind.bit != 0 }

  /// Somebody wants the events of every item.
  var isOfAllItems: Bool { watchesWithoutItems > 0 }

  /// Somebody wants those of some items alone.
  var isOfSomeItems: Bool { !watchesByItem.isEmpty }

  func takes(item: UInt64) -> Bool { watchesByItem[item] != nil }
}
