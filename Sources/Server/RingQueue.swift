/// A queue in a ring of memory that grows as needed: whoever appends has a limit of its own.
@safe struct RingQueue<Element: BitwiseCopyable>: ~Copyable {
  @unsafe private struct State {
    var elements: UnsafeMutablePointer<Element>
    /// A power of two.
    var capacity: Int
    /// Elements that were ever taken and added; they lie at these numbers modulo the capacity.
    var taken = 0
    var added = 0
  }

  // Behind a constant pointer: properties of a class, the loop's calls, are checked for exclusive access
  // at every use.
  private let state: UnsafeMutablePointer<State>

  /// - Parameter capacity: at first; a power of two.
  init(capacity: Int) {
    precondition(capacity.nonzeroBitCount == 1, "a power of two")
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(elements: .allocate(capacity: capacity), capacity: capacity))
  }

  deinit {
    unsafe state.pointee.elements.deallocate()
    unsafe state.deallocate()
  }

  var count: Int { unsafe state.pointee.added - state.pointee.taken }

  /// The oldest element.
  var first: Element? {
    if count == 0 { return nil }
    let place = unsafe state.pointee.taken & (state.pointee.capacity - 1)
    return unsafe state.pointee.elements[place]
  }

  func append(_ element: Element) {
    if unsafe count == state.pointee.capacity { grow() }
    let place = unsafe state.pointee.added & (state.pointee.capacity - 1)
    unsafe (state.pointee.elements + place).initialize(to: element)
    unsafe state.pointee.added += 1
  }

  func removeFirst() {
    precondition(count > 0, "an empty queue")
    unsafe state.pointee.taken += 1
  }

  private func grow() {
    let (old, capacity) = unsafe (state.pointee.elements, state.pointee.capacity)
    let larger = UnsafeMutablePointer<Element>.allocate(capacity: capacity * 2)
    for offset in 0..<capacity {
      let from = unsafe (state.pointee.taken + offset) & (capacity - 1)
      unsafe (larger + offset).initialize(to: old[from])
    }
    unsafe old.deallocate()
    unsafe state.pointee.elements = larger
    unsafe state.pointee.capacity = capacity * 2
    unsafe state.pointee.added = capacity
    unsafe state.pointee.taken = 0
  }
}
