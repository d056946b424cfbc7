// What is to be done later, earliest first.

/// A binary heap by time. It grows with what waits, and keeps its memory.
struct DelayedTasks<Task: BitwiseCopyable> {
  private var heap: [(time: Int64, task: Task)] = []

  var isEmpty: Bool { heap.isEmpty }
  var count: Int { heap.count }

  /// When the earliest is due; `Int64.max` where none waits.
  var nextNanoseconds: Int64 { heap.first?.time ?? .max }

  mutating func add(_ task: Task, at time: Int64) {
    heap.append((time, task))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      if heap[parent].time <= time { break }
      heap.swapAt(parent, child)
      child = parent
    }
  }

  /// The earliest, if it is due at `now`.
  mutating func popDue(at now: Int64) -> Task? {
    nextNanoseconds <= now ? popFirst()?.task : nil
  }

  /// The earliest.
  mutating func popFirst() -> (time: Int64, task: Task)? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    guard !heap.isEmpty else { return first }
    var parent = 0
    while true {
      var child = 2 * parent + 1
      if child >= heap.count { break }
      if child + 1 < heap.count, heap[child + 1].time < heap[child].time { child += 1 }
      if last.time <= heap[child].time { break }
      heap[parent] = heap[child]
      parent = child
    }
    heap[parent] = last
    return first
  }
}
