import Testing

@testable import LoadKit

/// A shop's own catalogue, and files that are none.
@Suite struct CatalogueTests {
  @Test(arguments: [
    "a,berlin,5\nb,,0\n", "sku,location,on_hand\na,berlin,5\nb,,0", "a,berlin,5\r\nb,,0\r\n",
    "\u{feff}sku,location,on_hand\n\"a\",\"berlin\",\"5\"\n\nb,,0\n",
  ])
  func itemsOfAFile(text: String) throws {
    let catalogue = try Catalogue(Array(text.utf8), name: "f.csv")
    #expect(catalogue.onHand == [5, 0])
    #expect(catalogue.weights == nil)
    var workload = Workload()
    workload.hotUnits = 9
    workload.catalogue = catalogue
    #expect(workload.stock == [5, 0] && workload.skuCount == 2)
    try workload.validate()
  }

  @Test func weightsAreDrawnBy() throws {
    let catalogue = try Catalogue(
      Array("sku,location,on_hand,weight\na,x,1,3\na,y,1,1\nb,,7,0.5\n".utf8), name: "f.csv")
    #expect(catalogue.weights == [3, 1, 0.5])
    var workload = Workload()
    workload.catalogue = catalogue
    var draws = Draws(workload, weights: AliasTable(workload), seed: 1)
    var counts = [0, 0, 0]
    for _ in 0..<9_000 { counts[Int(draws.sku())] += 1 }
    #expect((5_600...6_400).contains(counts[0]) && (1_700...2_300).contains(counts[1]))
  }

  private static let long = String(repeating: "s", count: 65)
  private static let refused: [(text: String, message: String)] = [
    ("", "f.csv has no item"), ("\n\r\n", "f.csv has no item"),
    ("sku,location,on_hand\n", "f.csv has no item"),
    ("a,b\n", "f.csv, line 1: it has 2 fields, and sku,location,on_hand[,weight] has 3 or 4"),
    ("a,b,1\na,c,1,1\n", "f.csv, line 2: it has 4 fields, and the lines before it 3"),
    ("a,,1,1\nb,,1\n", "f.csv, line 2: it has 3 fields, and the lines before it 4"),
    ("a,,1\n,,1\n", "f.csv, line 2: sku must be 1 to 64 bytes"),
    ("a b,,1\n", "f.csv, line 1: sku must be 1 to 64 bytes"),
    ("\u{e9},,1\n", "f.csv, line 1: sku must be 1 to 64 bytes"),
    ("a\u{1b}[31m,,1\n", "f.csv, line 1: sku must be 1 to 64 bytes"),
    ("\(long),,1\n", "f.csv, line 1: sku must be 1 to 64 bytes"),
    ("a,\(long),1\n", "f.csv, line 1: location must be 0 to 64 bytes"),
    ("a,x y,1\n", "f.csv, line 1: location must be 0 to 64 bytes"),
    ("a,,\n", "f.csv, line 1: on_hand must be 0 to 2^40, not ''"),
    ("a,,-1\n", "f.csv, line 1: on_hand must be 0 to 2^40, not '-1'"),
    ("a,,1.5\n", "f.csv, line 1: on_hand must be 0 to 2^40, not '1.5'"),
    ("a,,1099511627777\n", "f.csv, line 1: on_hand must be 0 to 2^40"),
    ("a,,99999999999999999999\n", "f.csv, line 1: on_hand must be 0 to 2^40"),
    ("a,,1,0\n", "f.csv, line 1: weight must be above 0"),
    ("a,,1,nan\n", "f.csv, line 1: weight must be above 0"),
    ("a,,1,inf\n", "f.csv, line 1: weight must be above 0"),
    ("a,,1,1e10\n", "f.csv, line 1: weight must be above 0"),
    ("a,,1,\n", "f.csv, line 1: weight must be above 0"),
    ("a,x,1\nb,,1\n\na,x,2\n", "f.csv, line 4: a at 'x' stands in line 1 too"),
    ("\"a,,1\n", "f.csv, line 1: its double quotes do not match"),
    ("a\"b\",,1\n", "f.csv, line 1: its double quotes do not match"),
    ("\"a\"b,,1\n", "f.csv, line 1: its double quotes do not match"),
    (
      "a,,1\n" + String(repeating: "x", count: 300) + "\n",
      "f.csv, line 2: it is longer than 256 bytes"
    ),
    ("sku,location,on_hand\nsku,location,on_hand\n", "f.csv, line 2: on_hand must be"),
  ]

  @Test(arguments: refused.indices)
  func whatIsNoCatalogueIsSaid(index: Int) {
    let (text, message) = Self.refused[index]
    let error = #expect(throws: LoadError.self) {
      _ = try Catalogue(Array(text.utf8), name: "f.csv")
    }
    let said = error?.description ?? ""
    #expect(said.hasPrefix(message), "\(said)")
    // One line, whatever is in the file.
    #expect(said.unicodeScalars.allSatisfy { $0.value >= 0x20 })
  }

  @Test func noBytesTrap() {
    var random = Random(seed: 5)
    let alphabet = Array("a,\"\n\r1.\u{0}-".utf8) + [0xff, 0xc3]
    for _ in 0..<3_000 {
      let bytes = (0..<Int(random.below(40))).map { _ in
        alphabet[Int(random.below(UInt64(alphabet.count)))]
      }
      _ = try? Catalogue(bytes, name: "f")
    }
  }
}
