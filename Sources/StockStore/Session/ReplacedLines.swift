/// The lines of the journal's record of a Replace.
extension StoreSession {
  /// Lines of the record: those that are held from now on, and the items of which nothing is.
  var replacedLineCount: Int {
    let replacement = scratch.replacement
    let dropped = (0..<scratch.changes.count).count {
      replacement.index(scratch.changes[$0].ordinal) == nil
    }
    return replacement.lineCount + dropped
  }

  /// Puts what becomes of the items into the record: first the lines that are held from now on, then the items of
  /// which nothing is.
  @inline(never)
  func writeReplacedLines() {
    let replacement = scratch.replacement
    for index in 0..<replacement.lineCount {
      let line = replacement.lines[index]
      if let change = scratch.changes.index(line.item.ordinal) {
        writeReplacedLine(index, scratch.changes[change], quantity: line.quantity)
      } else {
        // Kept as it is: the item has seen nothing of it, and may be anywhere by now.
        scratch.record.setLine(
          index, ordinal: line.item.ordinal, quantity: line.quantity, version: 0, onHand: 0,
          held: 0)
      }
    }
    var index = replacement.lineCount
    for change in 0..<scratch.changes.count
    where replacement.index(scratch.changes[change].ordinal) == nil {
      writeReplacedLine(index, scratch.changes[change], quantity: 0)
      index += 1
    }
  }

  private func writeReplacedLine(_ index: Int, _ change: ItemChange, quantity: Int64) {
    scratch.record.setLine(
      index, ordinal: change.ordinal, quantity: quantity, version: change.word >> 1 + 1,
      onHand: change.before.onHand, held: change.before.held + change.heldChange)
    if change.before.committed != 0 || scratch.record.tellsCommitted {
      scratch.record.setCommitted(index, of: replacedLineCount, change.before.committed)
    }
  }
}
