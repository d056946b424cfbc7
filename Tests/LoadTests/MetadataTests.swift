import CNGHTTP2
import HTTP2
import Testing

@testable import LoadKit

@Suite struct MetadataTests {
  @Test(arguments: [
    ("a=b", "a", "b"), ("authorization=Bearer a.b=c==", "authorization", "Bearer a.b=c=="),
    ("x_1-2.3=~ !", "x_1-2.3", "~ !"), ("trace-bin=", "trace-bin", ""),
    ("trace-bin=AQI", "trace-bin", "AQI"), ("trace-bin=AQ==", "trace-bin", "AQ=="),
    ("trace-bin=+/+/", "trace-bin", "+/+/"),
  ])
  func metadata(text: String, name: String, value: String) throws {
    #expect(try Metadata.parse(text) == ClientMetadata(name: name, value: value))
  }

  /// `named` is what the error says of the text; never the value.
  @Test(arguments: [
    ("s3cret", ""), ("=s3cret", ""), ("Authorization=s3cret", ""), ("s3cret ==", ""),
    ("na me=s3cret", ""), (":path=s3cret", ""), ("te=s3cret", "'te'"), ("host=s3cret", "'host'"),
    ("grpc-timeout=s3cret", "'grpc-timeout'"), ("content-type=s3cret", "'content-type'"),
    ("a=", "'a'"), ("a= s3cret", "'a'"), ("a=s3cret ", "'a'"), ("a=s3cret\n", "'a'"),
    ("a=s3cret\u{7f}", "'a'"), ("a=s3cr\u{e9}t", "'a'"), ("a-bin=s3cret*", "'a-bin'"),
    ("a-bin=s3cre", "'a-bin'"), ("a-bin=s3cret=", "'a-bin'"), ("a-bin=====", "'a-bin'"),
  ])
  func rejected(text: String, named: String) {
    do throws(LoadError) {
      _ = try Metadata.parse(all: ["good=1", text])
      Issue.record("\(text) was taken")
    } catch {
      let words = "\(error)"
      #expect(words.hasPrefix("--metadata (2 of 2): "))
      #expect(words.contains(named))
      #expect(!words.contains("s3cr"))
    }
  }

  @Test func tooMuch() throws {
    let most = ClientConnection.metadataBytesMax
    let value = String(repeating: "v", count: most - 9)
    #expect(try Metadata.parse(all: ["n=" + value]).count == 1)
    #expect(throws: LoadError.self) { try Metadata.parse(all: ["n=" + value + "v"]) }
    #expect(throws: LoadError.self) { try Metadata.parse(all: ["n=" + value, "a=b"]) }
  }

  @Test(arguments: [
    (["run", "--metadata", "a=s", "--x", "b=c"], ["run", "--metadata", "a=...", "--x", "b=c"]),
    (["--metadata=a=s=t", "x"], ["--metadata=a=...", "x"]),
    (["--metadata", "s"], ["--metadata", "..."]),
    (["--metadata", "S3cret=="], ["--metadata", "..."]),
    (["--metadata=s"], ["--metadata=..."]),
    (["--metadata"], ["--metadata"]),
    (["--metadata", "--metadata", "a=s"], ["--metadata", "...", "a=..."]),
    (["--metadata", "a=1", "--metadata", "b=2"], ["--metadata", "a=...", "--metadata", "b=..."]),
  ])
  func hiding(arguments: [String], shown: [String]) {
    #expect(Metadata.hidingValues(arguments) == shown)
  }
}

@Suite struct RequestMetadataTests {
  /// Lengths on both sides of a prefix of seven bits and of one byte more, and of the room in the table.
  static let lengths = [0, 1, 126, 127, 128, 254, 255, 256, 1_000, 1_900, 2_100, 8_200]

  /// What a server decodes of five calls, over two paths, is what was meant; from the second call of a path
  /// on, a field that the table has room for is one byte, and another is spelt out.
  @Test(arguments: lengths, [UInt32(4_096), 0])
  func metadataDecodes(length: Int, tableSize: UInt32) throws {
    var decoder: OpaquePointer?
    #expect(unsafe nghttp2_hd_inflate_new(&decoder) == 0)
    let inflater = try unsafe #require(unsafe decoder)
    defer { unsafe nghttp2_hd_inflate_del(inflater) }
    let isSmall = tableSize < 4_096
    if isSmall {
      #expect(unsafe nghttp2_hd_inflate_change_table_size(inflater, Int(tableSize)) == 0)
    }
    let value = String(repeating: "v", count: length)
    var connection = try TestConnection(
      scheme: "https",
      metadata: [
        ClientMetadata(name: "authorization", value: value), ClientMetadata(name: "b", value: "c"),
      ])
    try connection.receive(isSmall ? Frames.settings([(1, tableSize)]) : Frames.settings())
    _ = connection.output()
    for (number, path) in [0, 1, 0, 1, 0].enumerated() {
      connection.start(UInt64(number), path: path)
      let frames = parse(connection.output())
      #expect(frames.map(\.type) == [1, 0])
      let headers = unsafe ClientConnectionTests.inflate(frames[0].payload, inflater)
      #expect(headers["authorization"] == value)
      #expect(headers["b"] == "c")
      #expect(headers[":scheme"] == "https")
      #expect(headers[":path"] == ["/a.A/B", "/a.A/C"][path])
      guard number > 1, !isSmall else { continue }
      let fits = length + "authorization".utf8.count + 32 <= 2_048
      #expect(fits ? frames[0].payload.count == 9 : frames[0].payload.count > length)
    }
  }

  /// More fields than have a place in the table, or than indexes of one byte.
  @Test func manyFields() throws {
    var decoder: OpaquePointer?
    #expect(unsafe nghttp2_hd_inflate_new(&decoder) == 0)
    let inflater = try unsafe #require(unsafe decoder)
    defer { unsafe nghttp2_hd_inflate_del(inflater) }
    let metadata = (0..<90).map { ClientMetadata(name: "n\($0)", value: "\($0)") }
    var connection = try TestConnection(metadata: metadata)
    try connection.receive(Frames.settings())
    _ = connection.output()
    for (number, path) in [0, 1, 0, 1, 1].enumerated() {
      connection.start(UInt64(number), path: path)
      let frames = parse(connection.output())
      let headers = unsafe ClientConnectionTests.inflate(frames[0].payload, inflater)
      for field in metadata { #expect(headers[field.name] == field.value) }
      #expect(headers.count == metadata.count + 7)
    }
  }

  @Test func tooMuchIsAnError() {
    let value = String(repeating: "v", count: ClientConnection.metadataBytesMax)
    #expect(throws: ClientError.self) {
      _ = try TestConnection(metadata: [ClientMetadata(name: "n", value: value)])
    }
  }
}
