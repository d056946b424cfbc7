// What is remembered of header fields: heads are asked for when the fields change, and are right after
// every change of the dynamic table.
import HTTP2
import Testing

@Suite struct ServerHeadTests {
  private func call(_ stream: UInt32, _ block: [UInt8]) -> [UInt8] {
    ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))
  }

  private func heads(_ text: String) -> [Int32] { text.utf8.map { Int32($0) } }

  @Test func fieldsArriveInTheOrderOfTheirNames() throws {
    let server = try ServerUnderTest.connected()
    let fields = ServerField.call("/a/A", caller: "me") + [ServerField("grpc-encoding", "gzip")]
    #expect(server.receive(call(1, ServerField.literals(fields))) == nil)
    #expect(server.fields == ["POST", "/a/A", "application/grpc", "gzip", "me"])
    #expect(server.receive(call(3, ServerField.literals(ServerField.call("/a/B")))) == nil)
    #expect(server.fields == ["POST", "/a/B", "application/grpc", "", ""])
    server.close()
  }

  @Test func aHeadIsAskedForOnlyWhenTheFieldsChange() throws {
    let server = try ServerUnderTest.connected()
    var encoder = ServerTestEncoder()
    for number in 0..<100 {
      let block = encoder.encode(ServerField.call("/a/A"))
      #expect(server.receive(call(UInt32(2 * number + 1), block)) == nil)
    }
    #expect(server.calls.map(\.head) == heads(String(repeating: "A", count: 100)))
    // The first fills the table, the second is the first of references alone.
    #expect(server.count(.head) <= 2)
    server.close()
  }

  /// A block of the same bytes means something else once an entry came in.
  @Test func theSameBytesMeanWhatTheTableSaysNow() throws {
    let server = try ServerUnderTest.connected()
    func path(_ value: String) -> [UInt8] { [0x44, UInt8(value.utf8.count)] + Array(value.utf8) }
    let type: [UInt8] = [0x5f, 16] + Array("application/grpc".utf8)
    let fixed: [UInt8] = [0x83, 0x86]
    let blocks = [
      fixed + path("/a/A") + type,  // 62 type, 63 A
      fixed + [0xbf, 0xbe], fixed + [0xbf, 0xbe],
      fixed + path("/a/B") + [0xbf],  // 62 B, 63 type, 64 A
      fixed + [0xbe, 0xbf], fixed + [0xc0, 0xbf], fixed + [0xbe, 0xbf],
      fixed + path("/a/C") + type,  // 62 type, 63 C
      fixed + [0xbf, 0xbe], fixed + [0xbf, 0xbe],
      [0x20, 0x3f, 0xe1, 0x1f] + fixed + path("/a/D") + type,  // emptied
      fixed + [0xbf, 0xbe], fixed + [0xbf, 0xbe],
    ]
    for (index, block) in blocks.enumerated() {
      #expect(server.receive(call(UInt32(2 * index + 1), block)) == nil)
    }
    #expect(server.calls.map(\.head) == heads("AAABBABCCCDDD"))
    // The same in one turn, where heads are decided after all blocks were read.
    let turn = try ServerUnderTest.connected()
    let bytes = blocks.enumerated().flatMap { call(UInt32(2 * $0.offset + 1), $0.element) }
    #expect(turn.receive(bytes) == nil)
    #expect(turn.calls.map(\.head) == heads("AAABBABCCCDDD"))
    // What is evicted is gone.
    #expect(turn.receive(call(101, [0x20] + ServerField.literals(ServerField.call("/a/E")))) == nil)
    #expect(
      turn.receive(call(103, fixed + [0xbf, 0xbe])) == .protocolViolation(.compressionError))
    server.close()
    turn.close()
  }

  @Test(arguments: 0..<40) func randomFieldsAndTables(seed: UInt64) throws {
    var numbers = ServerSeededNumbers(state: seed)
    let server = try ServerUnderTest.connected()
    var encoder = ServerTestEncoder()
    var expected: [ServerUnderTest.Call] = []
    var stream: UInt32 = 1
    while expected.count < 300 {
      var bytes: [UInt8] = []
      for _ in 0..<Int.random(in: 1...6, using: &numbers) {
        if Int.random(in: 0..<20, using: &numbers) == 0 {
          encoder.setTable(bytes: [0, 60, 120, 250, 4096].randomElement(using: &numbers) ?? 0)
        }
        let letter = "ABCDEF".utf8.randomElement(using: &numbers) ?? 65
        let timeout = [nil, nil, nil, "1S", "20m"].randomElement(using: &numbers) ?? nil
        let caller = [nil, nil, nil, nil, "me", "you"].randomElement(using: &numbers) ?? nil
        var fields = ServerField.call(
          "/service/\(Unicode.Scalar(letter))", timeout: timeout, caller: caller)
        if Int.random(in: 0..<8, using: &numbers) == 0 {
          let length = [1, 80, 1500].randomElement(using: &numbers) ?? 1
          fields.append(ServerField("x-noise", String(repeating: "n", count: length)))
        }
        bytes += call(stream, encoder.encode(fields))
        expected.append(
          ServerUnderTest.Call(
            head: Int32(letter), body: grpcMessage([]), timeout: timeout, caller: caller ?? ""))
        stream += 2
      }
      #expect(server.receive(bytes) == nil)
      _ = try server.frames()
    }
    #expect(server.calls == expected, "seed \(seed)")
    server.close()
  }

  /// A remembered block has no content-length to check, and a block with one is not remembered.
  @Test func aLengthIsCheckedForEachCall() throws {
    let server = try ServerUnderTest.connected()
    var encoder = ServerTestEncoder()
    let fields = ServerField.call("/a/A") + [ServerField("content-length", "5")]
    for stream in [1, 3, 5, 7] as [UInt32] {
      #expect(server.receive(call(stream, encoder.encode(fields))) == nil)
    }
    #expect(server.calls.count == 4)
    _ = try server.frames()
    let bytes = ServerFrame.headers(9, encoder.encode(fields)) + ServerFrame.data(9, [0, 0, 0, 0])
    #expect(server.receive(bytes) == nil)
    #expect(server.calls.count == 4)
    #expect(try server.frames().map(\.code) == [1])
    server.close()
  }

  /// Streams whose owner wants to hear of data do so whether or not their head was remembered.
  @Test func dataIsHeardOfOnEveryStream() throws {
    let server = try ServerUnderTest.connected()
    server.wantsData = true
    var encoder = ServerTestEncoder()
    for stream in [1, 3, 5, 7] as [UInt32] {
      #expect(
        server.receive(ServerFrame.headers(stream, encoder.encode(ServerField.call("/a/A")))) == nil
      )
      #expect(server.receive(ServerFrame.data(stream, [0], endsStream: false)) == nil)
      // From the third on the block is known, and the stream begins at once.
      let known = max(0, (Int(stream) - 3) / 2)
      #expect(server.count(.data) == Int(stream + 1) / 2 + known, "stream \(stream)")
    }
    server.close()
  }

  /// HEADERS and DATA in one read: there is no event for bytes that came before anyone could ask for
  /// them, but whoever decides on the head finds them.
  @Test func dataThatCameWithTheHeadersIsThereForTheHead() throws {
    let server = try ServerUnderTest.connected()
    let block = ServerField.literals(ServerField.call("/a/A"))
    let message = grpcMessage([1])
    let bytes = ServerFrame.headers(1, block) + ServerFrame.data(1, message, endsStream: false)
    #expect(server.receive(bytes) == nil)
    #expect(server.bodyAtHead == message)
    server.close()
  }
}
