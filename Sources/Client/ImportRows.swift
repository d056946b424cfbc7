// The rows of an import: which column of a file is what, and what a record asks for.

/// What a column of an import's file may be.
enum ImportColumn: String, CaseIterable {
  case sku
  case location
  case onHand = "on_hand"
  case delta
  case ship
  case uncommit
  case safetyStock = "safety_stock"
  case expectedVersion = "expected_version"
  case expectedOnHand = "expected_on_hand"
  case allowShortage = "allow_shortage"
  /// What an earlier import has written beside rows that were rejected; of no meaning here.
  case rejectedLine = "rejected_line"
  case rejectedReason = "rejected_reason"
}

/// The first record of a file, which names the columns, in any order and case.
package struct ImportHeader {
  private var columns: [ImportColumn?] = []
  /// As it stands in the file.
  package let bytes: [UInt8]

  /// - Parameter ignored: names of columns that are passed over.
  package init(_ record: CSVRecord, ignored: [String] = []) throws(CSVMistake) {
    bytes = record.bytes
    if let mistake = record.mistake { throw mistake }
    let ignored = Set(ignored.map { $0.lowercased() })
    for field in record.fields {
      guard let text = field.text else {
        throw Self.mistake(field, "the name of a column is not UTF-8")
      }
      let name = Self.trimmed(text).lowercased()
      if ignored.contains(name) {
        columns.append(nil)
        continue
      }
      guard let column = ImportColumn(rawValue: name) else {
        let known = ImportColumn.allCases.prefix(10).map(\.rawValue).joined(separator: ", ")
        throw Self.mistake(
          field,
          "the first line names the columns, and '\(PlainText.cut(text, to: 40))' is none of \(known) (--ignore-column)"
        )
      }
      if columns.contains(column), column != .rejectedLine, column != .rejectedReason {
        throw Self.mistake(field, "'\(name)' is there twice")
      }
      columns.append(column)
    }
    if !columns.contains(.sku) {
      throw CSVMistake(line: record.line, column: 1, "no column is called sku")
    }
    let changes: Set<ImportColumn> = [.onHand, .delta, .ship, .uncommit, .safetyStock]
    if changes.isDisjoint(with: columns.compactMap(\.self)) {
      throw CSVMistake(
        line: record.line, column: 1,
        "nothing would change: a column on_hand, delta, ship, uncommit or safety_stock is needed")
    }
  }

  /// Rows may set on hand whatever it was.
  package var setsWithoutCheck: Bool {
    columns.contains(.onHand) && !columns.contains(.expectedVersion)
      && !columns.contains(.expectedOnHand)
  }

  /// What a record asks for.
  package func row(_ record: CSVRecord) throws(CSVMistake) -> Adjustment {
    if let mistake = record.mistake { throw mistake }
    guard record.fields.count == columns.count else {
      throw CSVMistake(
        line: record.line, column: 1,
        "\(record.fields.count) fields where the first line has \(columns.count)")
    }
    var row = Adjustment(ItemName())
    var isEmpty = true
    for (field, column) in zip(record.fields, columns) {
      guard let column, try set(column, field, &row) else { continue }
      isEmpty = false
    }
    if row.item.sku.isEmpty {
      throw CSVMistake(line: record.line, column: 1, "no sku")
    }
    if isEmpty {
      throw CSVMistake(line: record.line, column: 1, "nothing would change")
    }
    return row
  }

  /// Whether the field changes something.
  private func set(
    _ column: ImportColumn, _ field: CSVField, _ row: inout Adjustment
  ) throws(CSVMistake) -> Bool {
    if field.bytes.isEmpty { return false }
    switch column {
    case .sku: row.item.sku = try code(column, field)
    case .location: row.item.location = try code(column, field)
    case .onHand: try setChange(.set(number(column, field, 0...Units.max)), field, &row)
    case .delta: try setChange(.add(number(column, field, -Units.max...Units.max)), field, &row)
    case .ship: try setChange(.ship(number(column, field, 1...Units.max)), field, &row)
    case .uncommit: try setChange(.uncommit(number(column, field, 1...Units.max)), field, &row)
    case .safetyStock: row.safetyStock = try number(column, field, -Units.max...Units.max)
    case .expectedVersion:
      guard let version = UInt64(String(decoding: field.bytes, as: UTF8.self)) else {
        throw Self.mistake(field, "expected_version: not a number")
      }
      try setCheck(.version(version), field, &row)
    case .expectedOnHand: try setCheck(.onHand(number(column, field, 0...Units.max)), field, &row)
    case .allowShortage: row.allowsShortage = try flag(column, field)
    case .rejectedLine, .rejectedReason: break
    }
    switch column {
    case .onHand, .delta, .ship, .uncommit, .safetyStock: return true
    default: return false
    }
  }

  private func setChange(
    _ change: StockChange, _ field: CSVField, _ row: inout Adjustment
  ) throws(CSVMistake) {
    if row.change != nil {
      throw Self.mistake(field, "on_hand, delta, ship and uncommit: only one of them in a row")
    }
    row.change = change
  }

  private func setCheck(
    _ check: VersionCheck, _ field: CSVField, _ row: inout Adjustment
  ) throws(CSVMistake) {
    if row.check != .any {
      throw Self.mistake(field, "expected_version and expected_on_hand: only one of them in a row")
    }
    row.check = check
  }

  private func code(_ column: ImportColumn, _ field: CSVField) throws(CSVMistake) -> String {
    guard field.bytes.count <= 64, field.bytes.allSatisfy({ 0x21...0x7e ~= $0 }) else {
      throw Self.mistake(
        field, "\(column.rawValue): not up to 64 bytes of printable ASCII without spaces")
    }
    return String(decoding: field.bytes, as: UTF8.self)
  }

  private func number(
    _ column: ImportColumn, _ field: CSVField, _ range: ClosedRange<Int64>
  ) throws(CSVMistake) -> Int64 {
    guard let number = Int64(String(decoding: field.bytes, as: UTF8.self)), range.contains(number)
    else {
      let text = field.text.map { PlainText.printable(PlainText.cut($0, to: 40)) } ?? "?"
      throw Self.mistake(
        field,
        "\(column.rawValue): '\(text)' is no whole number from \(range.lowerBound) to \(range.upperBound)"
      )
    }
    return number
  }

  private func flag(_ column: ImportColumn, _ field: CSVField) throws(CSVMistake) -> Bool {
    switch String(decoding: field.bytes, as: UTF8.self).lowercased() {
    case "true", "yes", "1": return true
    case "false", "no", "0": return false
    default: throw Self.mistake(field, "\(column.rawValue): neither true nor false")
    }
  }

  private static func mistake(_ field: CSVField, _ text: String) -> CSVMistake {
    CSVMistake(line: field.line, column: field.column, text)
  }

  private static func trimmed(_ text: String) -> String {
    var text = text[...]
    while text.first == " " || text.first == "\t" { text.removeFirst() }
    while text.last == " " || text.last == "\t" { text.removeLast() }
    return String(text)
  }
}

/// Units that an item may have.
package enum Units {
  package static let max: Int64 = 1 << 40
}
