// A shop's own catalogue in place of SKUs that are all alike:
//
//   sku,location,on_hand[,weight]
//
// One item a line; the first line may be these names. A field may stand in double quotes. The items get names of the
// run, as others do: nothing of the shop's own stock is touched, and a second run begins anew. What is taken from
// the file is how many items there are, what is behind each, and how often it is asked for.

internal import LoadHistory
internal import LoadReport
internal import Posix

package struct Catalogue: Equatable, Sendable {
  /// By SKU.
  package private(set) var onHand: [Int64] = []
  /// How often each is drawn beside the others; nil where the file has no weights.
  package private(set) var weights: [Double]?

  package static let bytesMaximum = 256 << 20
  /// Names of 64 bytes, a number and a weight, in quotes.
  package static let lineBytesMaximum = 256
  private static let header = ["sku", "location", "on_hand", "weight"]
  private static let weightMaximum = 1_000_000_000.0

  /// - Parameter path: of the file; "-" is standard input.
  /// - Throws: one line, with the number of the file's line that is wrong.
  package init(path: String) throws(LoadError) {
    let bytes: [UInt8]
    do {
      bytes = try WorkloadFile.read(path, upTo: Catalogue.bytesMaximum)
    } catch {
      throw LoadError("cannot read the catalogue \(path): \(error)")
    }
    try self.init(bytes, name: path == "-" ? "standard input" : path)
  }

  /// - Parameter name: of the file, for messages.
  package init(_ bytes: [UInt8], name: String) throws(LoadError) {
    guard bytes.count <= Catalogue.bytesMaximum else {
      throw LoadError("\(name) is too long for a catalogue: 256 MiB at most")
    }
    var items: [String: Int] = [:]
    var columns = 0
    var number = 0
    let mark: [UInt8] = [0xef, 0xbb, 0xbf]
    let text = bytes.starts(with: mark) ? bytes.dropFirst(3) : bytes[...]
    for line in text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
      number += 1
      func refuse(_ reason: String) -> LoadError { LoadError("\(name), line \(number): \(reason)") }
      var line = line
      if line.last == UInt8(ascii: "\r") { line.removeLast() }
      if line.isEmpty { continue }
      guard line.count <= Catalogue.lineBytesMaximum else {
        throw refuse("it is longer than \(Catalogue.lineBytesMaximum) bytes")
      }
      guard let fields = Catalogue.fields(line) else {
        throw refuse("its double quotes do not match")
      }
      guard fields.count == 3 || fields.count == 4 else {
        throw refuse("it has \(fields.count) fields, and sku,location,on_hand[,weight] has 3 or 4")
      }
      if columns == 0 {
        columns = fields.count
        if fields == Array(Catalogue.header.prefix(columns)) { continue }
      }
      guard fields.count == columns else {
        throw refuse("it has \(fields.count) fields, and the lines before it \(columns)")
      }
      do throws(LoadError) { try add(fields) } catch { throw refuse(error.description) }
      if let before = items.updateValue(number, forKey: fields[0] + " " + fields[1]) {
        throw refuse(
          "\(Text.printable(fields[0])) at '\(Text.printable(fields[1]))' stands in line \(before) too"
        )
      }
    }
    guard !onHand.isEmpty else { throw LoadError("\(name) has no item") }
  }

  private mutating func add(_ fields: [String]) throws(LoadError) {
    guard onHand.count < SKUNames.countMaximum else {
      throw LoadError("more than \(SKUNames.countMaximum) items")
    }
    guard (1...64).contains(fields[0].utf8.count), Catalogue.isName(fields[0]) else {
      throw LoadError(
        "sku must be 1 to 64 bytes of printable ASCII without spaces, not "
          + "'\(Text.printable(fields[0]))'")
    }
    guard fields[1].utf8.count <= 64, Catalogue.isName(fields[1]) else {
      throw LoadError(
        "location must be 0 to 64 bytes of printable ASCII without spaces, not "
          + "'\(Text.printable(fields[1]))'")
    }
    guard let units = Int64(fields[2]), (0...1 << 40).contains(units) else {
      throw LoadError("on_hand must be 0 to 2^40, not '\(Text.printable(fields[2]))'")
    }
    onHand.append(units)
    guard fields.count == 4 else { return }
    guard let weight = Double(fields[3]), weight > 0, weight <= Catalogue.weightMaximum else {
      throw LoadError(
        "weight must be above 0, 1000000000 at most, not '\(Text.printable(fields[3]))'")
    }
    weights = weights ?? []
    weights?.append(weight)
  }

  private static func isName(_ text: String) -> Bool {
    text.utf8.allSatisfy { (0x21...0x7e).contains($0) }
  }

  /// The fields of a line, without the double quotes around them; nil where quotes are left open, or stand within
  /// a field.
  private static func fields(_ line: ArraySlice<UInt8>) -> [String]? {
    let quote = UInt8(ascii: "\"")
    var fields: [[UInt8]] = [[]]
    var isQuoted = false
    var wasQuoted = false
    for byte in line {
      if byte == quote {
        guard isQuoted || fields[fields.count - 1].isEmpty && !wasQuoted else { return nil }
        isQuoted.toggle()
        wasQuoted = true
      } else if byte == UInt8(ascii: ","), !isQuoted {
        fields.append([])
        wasQuoted = false
      } else {
        if wasQuoted, !isQuoted { return nil }
        fields[fields.count - 1].append(byte)
      }
    }
    return isQuoted ? nil : fields.map { String(decoding: $0, as: UTF8.self) }
  }
}
