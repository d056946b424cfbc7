// The header blocks of a client's requests, read by libnghttp2.
import Testing
import WireTesting

@testable import HTTP2

@Suite("Request header encoder")
struct RequestHeaderEncoderTests {
  private static func request(_ path: String, _ more: [HeaderField]) -> [HeaderField] {
    [
      HeaderField(name: ":method", value: "POST"), HeaderField(name: ":scheme", value: "https"),
      HeaderField(name: ":path", value: path), HeaderField(name: ":authority", value: "a:1"),
    ] + more
  }

  /// Sends the requests in this order, by all ways, and holds each block against what was meant.
  /// How long the blocks were.
  private func check(
    _ requests: [[HeaderField]], order: [Int], tableBytes: UInt32, window: UInt32 = 65_535
  ) throws -> [Int] {
    let decoder = ServerTestDecoder()
    if tableBytes < 4096 { decoder.setTable(bytes: Int(tableBytes)) }
    var client = try ClientUnderTest(requests: requests, streamsMax: 1000)
    var settings: [(UInt8, UInt32)] = [(4, window)]
    if tableBytes < 4096 { settings.append((1, tableBytes)) }
    try client.receive(Frames.settings(settings))
    _ = client.output()
    return try order.map { request in
      client.open(request)
      let block = try #require(try client.frames().first { $0.type == 1 }).payload
      #expect(decoder.decode(block) == requests[request].map { ServerField($0.name, $0.value) })
      return block.count
    }
  }

  @Test(
    "Whatever order the requests come in, the server decodes the fields that were meant",
    arguments: [UInt32(4096), 0, 100], [UInt32(65_535), 2])
  func order(tableBytes: UInt32, window: UInt32) throws {
    let more = [HeaderField(name: "te", value: "trailers"), HeaderField(name: "x", value: "y")]
    let requests = ["/a", "/b", "/c"].map { Self.request($0, more) }
    let lengths = try check(
      requests, order: [0, 0, 1, 0, 2, 1, 2, 0, 0], tableBytes: tableBytes, window: window)
    // In the end a byte for each field.
    if tableBytes == 4096 { #expect(lengths.suffix(4) == [6, 6, 6, 6]) }
  }

  /// On both sides of a prefix of seven bits and of one byte more, and of the room in the table.
  @Test(
    "Fields of every length",
    arguments: [0, 1, 126, 127, 128, 254, 255, 256, 1_000, 1_900, 2_100, 8_200],
    [UInt32(4_096), 0])
  func lengths(length: Int, tableBytes: UInt32) throws {
    let more = [
      HeaderField(name: "authorization", value: String(repeating: "v", count: length)),
      HeaderField(name: "b", value: "c"),
    ]
    let requests = [Self.request("/a", more), Self.request("/b", more)]
    let blocks = try check(requests, order: [0, 1, 0, 1, 0], tableBytes: tableBytes)
    guard tableBytes == 4_096 else { return }
    for count in blocks.suffix(3) {
      #expect(length <= 1_900 ? count == 6 : count > length && count < length + 40)
    }
  }

  @Test("More fields than the table has room for, or than there are indexes of one byte")
  func many() throws {
    let many = (0..<90).map { HeaderField(name: "n\($0)", value: "\($0)") }
    let requests = (0..<90).map { Self.request("/\($0)", many) }
    let order = (0..<90).flatMap { [$0, 0, $0] }
    _ = try check(requests, order: order, tableBytes: 4_096)
    let large = (0..<6).map { index in
      HeaderField(name: "n\(index)", value: String(repeating: "\(index)", count: 1_500))
    }
    _ = try check([Self.request("/a", large)], order: [0, 0, 0], tableBytes: 4_096)
  }

  @Test("Every field of the static table, and every name of it with another value")
  func staticTable() throws {
    var fields: [HeaderField] = []
    for index in 1...HPACKStaticTable.count {
      let entry = HPACKStaticTable.entry(index)
      fields.append(HeaderField(name: "\(entry.name)", value: "\(entry.value)"))
      fields.append(HeaderField(name: "\(entry.name)", value: "other"))
    }
    for tableBytes in [UInt32(4_096), 0] {
      for field in fields {
        _ = try check([[field]], order: [0, 0, 0], tableBytes: tableBytes)
      }
    }
  }

  @Test("A request that does not fit one frame is an error")
  func tooLarge() throws {
    let most = ClientConnection.requestFieldBytesMax - 9
    for (count, isGood) in [(most, true), (most + 1, false)] {
      let field = HeaderField(name: "n", value: String(repeating: "v", count: count))
      do throws(ClientError) {
        _ = try ClientConnection(
          requests: [[field]], captured: [], unreadBytesMax: 1, streamsMax: 1)
        #expect(isGood)
      } catch {
        #expect(!isGood)
      }
    }
  }
}
