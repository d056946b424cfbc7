// JSON front to back: what is read, and what is refused.
import Bytes
import Testing

struct JSONReaderTests {
  private static func reader(_ text: String) -> JSONReader { JSONReader(Array(text.utf8)) }

  @Test(arguments: [
    (#""""#, ""), (#""plain""#, "plain"), ("  \t\r\n\"x\"", "x"),
    (#""a\"b\\c\/d""#, "a\"b\\c/d"), (#""\b\f\n\r\t""#, "\u{8}\u{c}\n\r\t"),
    (#""\u0041\u00e4\u20AC""#, "Aä€"), (#""\ud83d\ude00!""#, "😀!"), (#""é€😀""#, "é€😀"),
    (#""\u0000""#, "\0"),
  ])
  func readsStrings(_ text: String, _ value: String) throws {
    var reader = Self.reader(text)
    #expect(try reader.text() == value)
    try reader.end()
  }

  @Test(arguments: [
    "", "x", "'x'", #""x"#, #""x\"#, #""\x""#, #""\u12""#, #""\u12g4""#, #""\ud800""#,
    #""\ud800x""#,
    #""\ud800\u0041""#, #""\udc00""#, "\"a\u{1}\"", "\"a\\n\u{1}\"", "\"\n\"",
  ])
  func refusesStrings(_ text: String) {
    var reader = Self.reader(text)
    #expect(throws: JSONError.self) { try reader.text() }
  }

  @Test(arguments: [[0x22, 0xff, 0x22], [0x22, 0xc3, 0x22], [0x22, 0xed, 0xa0, 0x80, 0x22]])
  func refusesWhatIsNotUTF8(_ bytes: [UInt8]) {
    var reader = JSONReader(bytes)
    #expect(throws: JSONError(.malformed, "not UTF-8", at: 1)) { try reader.text() }
  }

  @Test(arguments: [
    ("0", 0), ("-0", 0), ("7", 7), ("-7", -7), (#""7""#, 7), ("1.0", 1), ("1e3", 1000),
    ("1.5E+1", 15), ("1500e-2", 15), ("0.0e99999999999", 0), (#""1e3""#, 1000),
    ("9223372036854775807", .max), ("-9223372036854775808", .min),
    ("922337203685477580.7e1", .max), ("9223372036854775807.000", .max),
  ])
  func readsWholeNumbers(_ text: String, _ value: Int64) throws {
    var reader = Self.reader(text)
    #expect(try reader.int64() == value)
    try reader.end()
  }

  @Test(arguments: [
    "", "-", "+1", "01", "-01", ".5", "1.", "1e", "1e+", "0x10", "1_000", "1.5", "1e-1", "NaN",
    "Infinity",
    "9223372036854775808", "-9223372036854775809", "1e19", "1e99999999999999999999", "12x", "true",
    "null", #""""#, #"" 1""#, #""1 ""#, #""1"#, "[1]",
  ])
  func refusesNumbers(_ text: String) {
    var reader = Self.reader(text)
    #expect(throws: JSONError.self) { try reader.int64() }
  }

  /// Names and elements of `{"…": [numbers]}`.
  private static func lists(_ text: String) throws(JSONError) -> [String: [Int64]] {
    var reader = reader(text)
    var lists: [String: [Int64]] = [:]
    try reader.beginObject()
    while let name = try reader.nextName() {
      var list: [Int64] = []
      if !reader.null() {
        try reader.beginList()
        while try reader.nextElement() { list.append(try reader.int64()) }
      }
      lists[name] = list
    }
    try reader.end()
    return lists
  }

  @Test func walksObjectsAndLists() throws {
    #expect(try Self.lists("{}") == [:])
    #expect(
      try Self.lists(#" { "a" : [ 1 , 2 ] , "b":[],"c":null } "#) == [
        "a": [1, 2], "b": [], "c": [],
      ])
    #expect(try Self.lists(#"{"":[3]}"#) == ["": [3]])
  }

  @Test(arguments: [
    "", "[]", "{", "{]", "{,}", #"{"a"}"#, #"{"a":}"#, #"{"a":[]"#, #"{"a":[}"#, #"{"a":[1}"#,
    #"{"a":[1,]}"#,
    #"{"a":[,1]}"#, #"{"a":[1 2]}"#, #"{"a":[],}"#, #"{"a":[] "b":[]}"#, #"{a:[]}"#, #"{"a":[]}}"#,
    #"{"a":[]} x"#, #"{"a":nul}"#, "\u{feff}{}",
  ])
  func refusesStructure(_ text: String) {
    #expect(throws: JSONError.self) { try Self.lists(text) }
  }

  @Test func saysWhere() {
    #expect(throws: JSONError(.malformed, "a comma or the list's end is missing", at: 8)) {
      try Self.lists(#"{"a":[1 2]}"#)
    }
  }
}
