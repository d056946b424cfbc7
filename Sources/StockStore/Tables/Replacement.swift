/// What becomes of a hold whose lines are replaced.
struct Replacement {
  /// While its commit is on the way: the journal's record is another than that of the changes alone.
  var isReplacing = false
  var lineCount = 0
  var expiresAt: Int64 = 0
  var revision: UInt64 = 0
  /// Each item once.
  let lines = FixedArray<ViewLine>(
    capacity: StoreLimits.linesMax, repeating: ViewLine(item: ItemHandle(ordinal: 0), quantity: 0))

  /// The line of this item.
  func index(_ ordinal: UInt32) -> Int? {
    for index in 0..<lineCount where lines[index].item.ordinal == ordinal { return index }
    return nil
  }
}
