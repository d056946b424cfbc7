// A record's parts for whoever is of another module: nothing is inlined there, so that what an event says of a
// record is read in one call, and of each line in another.
internal import Synchronization

/// Good as long as the record's bytes.
@safe package struct RecordHead {
  package let time: Int64
  package let lineCount: Int
  @unsafe package let key: UnsafeRawBufferPointer
  @unsafe package let caller: UnsafeRawBufferPointer
}

/// A line of a record with its item, whose texts are good as long as the store. Of a refusal, nothing but item and
/// quantity.
@safe package struct NamedLine {
  package let ordinal: UInt32
  package let quantity: Int64
  package let version: UInt64
  package let onHand: Int64
  package let held: Int64
  package let committed: Int64
  /// What it is now, whatever it was at the decision.
  package let safetyStockNow: Int64
  @unsafe package let sku: UnsafeRawBufferPointer
  @unsafe package let location: UnsafeRawBufferPointer
}

extension JournalRecord {
  package var head: RecordHead {
    unsafe RecordHead(
      time: time, lineCount: lineCount, key: key.pointer, caller: caller.pointer)
  }

  /// Line `index`, from 0 to `lineCount` - 1, of an item that there is.
  package func namedLine(_ index: Int, _ core: StoreCore) -> NamedLine {
    let line = line(index)
    let name = core.items.name(line.ordinal)
    let safetyStock = core.items[line.ordinal].safetyStock
    return unsafe NamedLine(
      ordinal: line.ordinal, quantity: line.quantity, version: line.version, onHand: line.onHand,
      held: line.held, committed: line.committed, safetyStockNow: safetyStock,
      sku: name.sku.pointer, location: name.location.pointer)
  }
}
