// The limits of a Reserve: subject = 1, max_units = 2.
internal import StockStore

extension HoldfastHandler {
  /// Reads the limits' next entry, and hands it to the session; a bad one to `badEntries`, which are told with the bad
  /// lines. `checkLimits` has the rest to say.
  @inline(never)
  func readLimit(_ count: inout Int, _ reader: inout ProtoReader) {
    var subject = BorrowedBytes.empty
    var maxUnits: Int64 = 0
    let submessage = reader.enter()
    while let tag = reader.next() {
      switch tag {
      case .bytes(1): subject = reader.bytes()
      case .varint(2): maxUnits = reader.int64()
      default: reader.other(tag, known: 1...2)
      }
    }
    reader.leave(submessage, "limits", index: count)
    if reader.isWhole, count < StoreLimits.subjectsMax {
      do throws(FieldViolation) {
        let limit = try rules.limit(subject, maxUnits)
        if session.hasLimit(subject) {
          throw FieldViolation("subject", "another one than those of the other limits")
        }
        _ = session.appendLimit(limit)
      } catch {
        badEntries.append(error.inside("limits", at: count))
      }
    }
    count += 1
  }

  /// Whether the limits, `count` in all, are not too many. In whatever order the fields came: bad lines are told
  /// before bad limits.
  @inline(never)
  func checkLimits(_ count: Int) throws(FieldViolation) {
    guard count <= StoreLimits.subjectsMax else {
      badEntries.removeAll()
      throw FieldViolation("limits", "0 to 4 limits")
    }
    if hasBadEntries {
      let lines = badEntries.filter { !$0.isOfLimit }
      badEntries = lines + badEntries.filter(\.isOfLimit)
    }
  }
}

extension FieldViolation {
  fileprivate var isOfLimit: Bool { "\(field)" == "limits" }
}
