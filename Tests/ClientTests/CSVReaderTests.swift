// CSV as RFC 4180 has it, and as people and attackers write it.
import Testing

@testable import Client

/// What a file is read as: the texts of its fields, or what is wrong with a record.
private func read(_ bytes: [UInt8], separator: UInt8 = 0x2c, pieces: Int) -> [String] {
  var at = 0
  var reader = CSVReader(separator: separator) { () throws(CSVMistake) -> [UInt8] in
    let end = min(bytes.count, at + pieces)
    defer { at = end }
    return Array(bytes[at..<end])
  }
  var found: [String] = []
  do throws(CSVMistake) {
    while let record = try reader.next() {
      if let mistake = record.mistake {
        found.append("! \(mistake)")
      } else {
        let fields = record.fields.map { "[\($0.text ?? "?")]" }.joined()
        found.append("\(record.line) \(fields)")
      }
    }
  } catch {
    found.append("!! \(error)")
  }
  return found
}

@Suite struct CSVReaderTests {
  struct File: CustomTestStringConvertible {
    let testDescription: String
    let bytes: [UInt8]
    let records: [String]

    init(_ name: String, _ text: String, _ records: [String]) {
      (testDescription, bytes, self.records) = (name, Array(text.utf8), records)
    }

    init(_ name: String, bytes: [UInt8], _ records: [String]) {
      (testDescription, self.bytes, self.records) = (name, bytes, records)
    }
  }

  static let files = [
    File("nothing", "", []),
    File("one record without an end", "a,b", ["1 [a][b]"]),
    File("line feeds", "a,b\nc,d\n", ["1 [a][b]", "2 [c][d]"]),
    File("CRLF", "a,b\r\nc,d\r\n", ["1 [a][b]", "2 [c][d]"]),
    File("CRLF at the end of all", "a\r\n\r\n", ["1 [a]"]),
    File("empty fields", ",\n,,\n", ["1 [][]", "2 [][][]"]),
    File("empty lines", "\n\r\na\n\n\nb\n", ["3 [a]", "6 [b]"]),
    File("an empty field in quotes is a record", "\"\"\n", ["1 []"]),
    File("spaces are part of a field", " a , b\n", ["1 [ a ][ b]"]),
    File("quotes", "\"a,b\",\"c\"\n", ["1 [a,b][c]"]),
    File("quotes in quotes", "\"a\"\"b\",\"\"\"\"\n", ["1 [a\"b][\"]"]),
    File("a line end in quotes", "\"a\r\nb\",c\nd,e\n", ["1 [a\r\nb][c]", "3 [d][e]"]),
    File("a byte order mark", "\u{feff}a,b\n", ["1 [a][b]"]),
    File("a mark alone", "\u{feff}", []),
    File("the beginning of a mark", bytes: [0xef, 0xbb, 0x2c, 0x61], ["1 [?][a]"]),
    File("letters of all kinds", "ü,日本\n", ["1 [ü][日本]"]),
    File("no UTF-8", bytes: [0x61, 0x2c, 0xff, 0x0a, 0x62], ["1 [a][?]", "2 [b]"]),
    File(
      "UTF-16", bytes: [0xff, 0xfe, 0x61, 0x00], ["!! 1:1: the file is UTF-16: save it as UTF-8"]),
    File(
      "a NUL byte", bytes: [0x61, 0x0a, 0x62, 0x00, 0x0a, 0x63],
      ["1 [a]", "! 2:2: a NUL byte: is that a text file?", "3 [c]"]),
    File(
      "a quote within a field", "a\"b,c\nd\n",
      ["! 1:2: a quote within a field that does not begin with one", "2 [d]"]),
    File(
      "text behind a quote", "\"a\"b,c\nd\n",
      ["! 1:4: something behind the quote that ends a field", "2 [d]"]),
    File(
      "a quote that is not closed", "a\nb,\"c\nd\n",
      ["1 [a]", "! 2:3: the quote that begins here is not closed"]),
    File(
      "a carriage return alone", "a\rb\nc\n",
      ["! 1:3: a carriage return without a line feed", "2 [c]"]),
  ]

  /// However the file is cut into pieces.
  @Test(arguments: files, [1, 2, 3, 1000]) func aFileIsRead(_ file: File, _ pieces: Int) {
    #expect(read(file.bytes, pieces: pieces) == file.records)
  }

  @Test func anotherSeparator() {
    #expect(read(Array("a;b,c\n".utf8), separator: 0x3b, pieces: 4) == ["1 [a][b,c]"])
  }

  @Test func fieldsKnowWhereTheyStand() throws {
    var given = false
    var reader = CSVReader { () throws(CSVMistake) -> [UInt8] in
      defer { given = true }
      return given ? [] : Array("x\nab,\"c\nd\",ef\n".utf8)
    }
    _ = try reader.next()
    let record = try #require(try reader.next())
    #expect(record.fields.map(\.line) == [2, 2, 3])
    #expect(record.fields.map(\.column) == [1, 4, 4])
    #expect(record.bytes == Array("ab,\"c\nd\",ef".utf8))
  }

  @Test func aHugeRecordIsSaidAndPassedOver() {
    let huge = [UInt8](repeating: 0x61, count: 70_000)
    let found = read(huge + [0x0a, 0x62, 0x0a], pieces: 4096)
    #expect(
      found == ["! 1:65537: a record of more than 65536 bytes (is a quote not closed?)", "2 [b]"])
  }

  @Test func anEndlessQuoteCostsNoMemory() throws {
    var left = 64
    var reader = CSVReader { () throws(CSVMistake) -> [UInt8] in
      left -= 1
      return left == 63 ? [0x22] : left > 0 ? [UInt8](repeating: 0x0a, count: 65_536) : []
    }
    let record = try #require(try reader.next())
    #expect(record.bytes.count <= CSVReader.recordBytesMax)
    #expect(record.mistake?.description.contains("a record of more than") == true)
    #expect(try reader.next() == nil)
  }

  @Test func tooManyFieldsAreSaid() {
    let found = read(Array(String(repeating: ",", count: 300).utf8) + [0x0a, 0x62], pieces: 7)
    #expect(found == ["! 1:256: more than 256 fields", "2 [b]"])
  }

  /// Whatever bytes come: the reader ends, and how they are cut makes no difference.
  @Test func randomBytesAreReadAlikeHoweverTheyAreCut() {
    let letters: [UInt8] = [0x22, 0x2c, 0x0a, 0x0d, 0x61, 0x00, 0xff, 0x22, 0x2c, 0x0a]
    var state: UInt64 = 1
    func next(_ bound: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % bound
    }
    for _ in 0..<2_000 {
      let bytes = (0..<next(60)).map { _ in letters[next(letters.count)] }
      let whole = read(bytes, pieces: 1000)
      #expect(read(bytes, pieces: 1) == whole && read(bytes, pieces: 7) == whole, "\(bytes)")
    }
  }

  @Test(arguments: [("a", "a"), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("a\nb", "\"a\nb\"")])
  func textIsQuoted(_ text: String, _ field: String) {
    #expect(CSVReader.quoted(text) == field)
  }
}

@Suite struct ImportRowTests {
  /// The rows of a file, or what is wrong: with the header, then with each row.
  static func rows(_ text: String, ignored: [String] = []) -> [String] {
    var given = false
    var reader = CSVReader { () throws(CSVMistake) -> [UInt8] in
      defer { given = true }
      return given ? [] : Array(text.utf8)
    }
    var found: [String] = []
    do throws(CSVMistake) {
      guard let first = try reader.next() else { return ["empty"] }
      let header = try ImportHeader(first, ignored: ignored)
      while let record = try reader.next() {
        do throws(CSVMistake) {
          let row = try header.row(record)
          found.append(
            "\(row.item) \(row.change.map { "\($0)" } ?? "-") \(row.check) \(row.safetyStock.map { "\($0)" } ?? "-") \(row.allowsShortage)"
          )
        } catch { found.append("\(error)") }
      }
    } catch { found.append("\(error)") }
    return found
  }

  static let good: [(String, [String])] = [
    ("sku,on_hand\na,5\n", ["a set(5) any - false"]),
    ("On_Hand , SKU\n5,a\n", ["a set(5) any - false"]),
    (
      "sku,location,delta\na,oslo,-3\nb,,+4\n",
      ["a@oslo add(-3) any - false", "b add(4) any - false"]
    ),
    ("sku,ship\na,2\n", ["a ship(2) any - false"]),
    ("sku,uncommit\na,2\n", ["a uncommit(2) any - false"]),
    ("sku,safety_stock\na,-7\n", ["a - any -7 false"]),
    ("sku,on_hand,expected_on_hand\na,5,4\n", ["a set(5) onHand(4) - false"]),
    (
      "sku,on_hand,expected_version\na,5,18446744073709551615\n",
      ["a set(5) version(18446744073709551615) - false"]
    ),
    (
      "sku,on_hand,allow_shortage\na,5,yes\nb,5,no\n",
      ["a set(5) any - true", "b set(5) any - false"]
    ),
    ("sku,on_hand,delta\na,5,\nb,,2\n", ["a set(5) any - false", "b add(2) any - false"]),
    ("sku,on_hand\na,1099511627776\n", ["a set(1099511627776) any - false"]),
    // What an earlier import has rejected, mended.
    ("rejected_line,rejected_reason,sku,delta\n3,X,a,1\n", ["a add(1) any - false"]),
  ]

  @Test(arguments: good) func rowsAreRead(_ text: String, _ rows: [String]) {
    #expect(Self.rows(text) == rows)
  }

  static let bad: [(String, String)] = [
    ("on_hand\n5\n", "1:1: no column is called sku"),
    (
      "sku\na\n",
      "1:1: nothing would change: a column on_hand, delta, ship, uncommit or safety_stock is needed"
    ),
    ("sku,sku,delta\n", "1:5: 'sku' is there twice"),
    (
      "sku,stock\n",
      "1:5: the first line names the columns, and 'stock' is none of sku, location, on_hand, delta, ship, uncommit, safety_stock, expected_version, expected_on_hand, allow_shortage (--ignore-column)"
    ),
    ("sku,delta\na\n", "2:1: 1 fields where the first line has 2"),
    ("sku,delta\na,1,2\n", "2:1: 3 fields where the first line has 2"),
    ("sku,delta\n,1\n", "2:1: no sku"),
    ("sku,delta\na,\n", "2:1: nothing would change"),
    ("sku,delta\na b,1\n", "2:1: sku: not up to 64 bytes of printable ASCII without spaces"),
    ("sku,delta\nä,1\n", "2:1: sku: not up to 64 bytes of printable ASCII without spaces"),
    (
      "sku,location,delta\na,b c,1\n",
      "2:3: location: not up to 64 bytes of printable ASCII without spaces"
    ),
    (
      "sku,delta\na,1.5\n",
      "2:3: delta: '1.5' is no whole number from -1099511627776 to 1099511627776"
    ),
    (
      "sku,delta\na,0x1\n",
      "2:3: delta: '0x1' is no whole number from -1099511627776 to 1099511627776"
    ),
    ("sku,on_hand\na,-1\n", "2:3: on_hand: '-1' is no whole number from 0 to 1099511627776"),
    (
      "sku,on_hand\na,1099511627777\n",
      "2:3: on_hand: '1099511627777' is no whole number from 0 to 1099511627776"
    ),
    ("sku,ship\na,0\n", "2:3: ship: '0' is no whole number from 1 to 1099511627776"),
    (
      "sku,on_hand,delta\na,1,2\n",
      "2:5: on_hand, delta, ship and uncommit: only one of them in a row"
    ),
    (
      "sku,delta,expected_version,expected_on_hand\na,1,2,3\n",
      "2:7: expected_version and expected_on_hand: only one of them in a row"
    ),
    ("sku,delta,expected_version\na,1,x\n", "2:5: expected_version: not a number"),
    ("sku,delta,allow_shortage\na,1,maybe\n", "2:5: allow_shortage: neither true nor false"),
  ]

  @Test(arguments: bad) func mistakesAreSaidWithTheirPlace(_ text: String, _ mistake: String) {
    #expect(Self.rows(text) == [mistake])
  }

  @Test func columnsCanBeIgnored() {
    #expect(Self.rows("note,sku,delta\n\u{1},a,1\n", ignored: ["NOTE"]) == ["a add(1) any - false"])
  }

  @Test(arguments: [
    ("holdfast-import 1 abc-0123456789abcdef 7", "abc-0123456789abcdef", UInt64(7)),
    ("holdfast-import 1 x0123456789abcdef 0", "x0123456789abcdef", 0),
  ]) func aStateIsReadAgain(_ text: String, _ id: String, _ done: UInt64) throws {
    let state = try #require(ImportState(text))
    #expect(state.importID == id && state.done == done && state.text == text)
    #expect(state.digest == "0123456789abcdef")
  }

  @Test(arguments: [
    "", "holdfast-import", "holdfast-import 2 abc-0123456789abcdef 7", "holdfast-import 1 short 7",
    "holdfast-import 1 abc-0123456789abcdef -1", "holdfast-import 1 abc-0123456789abcdef 1 2",
  ]) func whatIsNoStateIsNone(_ text: String) {
    #expect(ImportState(text) == nil)
  }

  @Test func anIDHasTheFilesDigest() throws {
    let id = ImportState.newID(digest: "0123456789abcdef")
    #expect(id.utf8.count <= 64 && id.hasSuffix("-0123456789abcdef"))
    #expect(id != ImportState.newID(digest: "0123456789abcdef"))
  }

  @Test func aDigestIsOfAllPieces() {
    func digest(_ seed: String, _ pieces: [String]) -> String {
      let digest = RunningDigest(seed)
      for piece in pieces { digest.add(Array(piece.utf8)) }
      return digest.hexadecimal
    }
    let first = digest("a", ["x", "y"])
    #expect(first == digest("a", ["x", "", "y"]))
    #expect(
      Set([first, digest("b", ["x", "y"]), digest("a", ["y", "x"]), digest("a", ["x"])]).count == 4)
  }
}
