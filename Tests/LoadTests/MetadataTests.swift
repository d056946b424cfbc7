import GRPC
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
    let most = ClientCalls.metadataBytesMax
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
