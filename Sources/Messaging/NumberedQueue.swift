/// Elements with consecutive numbers: added behind, taken away in front, found by their numbers.
struct NumberedQueue<Element> {
  /// Rather than move what is left at every removal.
  private static var removedMax: Int { 512 }

  private var elements: [Element?] = []
  /// Places in front that are empty already.
  private var removed = 0
  /// The number of the first element, or of the next one where there is none.
  private(set) var first: UInt64 = 1

  var count: Int { elements.count - removed }
  /// The number of the next element.
  var end: UInt64 { first + UInt64(count) }
  var isEmpty: Bool { count == 0 }

  func contains(_ number: UInt64) -> Bool { first <= number && number < end }

  subscript(number: UInt64) -> Element {
    get {
      precondition(contains(number), "no element of that number")
      return elements[removed + Int(number - first)]!
    }
    _modify {
      precondition(contains(number), "no element of that number")
      yield &elements[removed + Int(number - first)]!
    }
  }

  mutating func append(_ element: Element) { elements.append(element) }

  mutating func removeFirst() {
    precondition(!isEmpty, "nothing to take away")
    elements[removed] = nil
    removed += 1
    first += 1
    if removed > Self.removedMax, removed * 2 > elements.count {
      elements.removeFirst(removed)
      removed = 0
    }
  }

  /// Begins again with 1.
  mutating func restart() { self = NumberedQueue() }
}
