// Header blocks that are known but for one field, which has another value in every call and is entered
// into the table each time, as gRPC clients do with their deadlines.
import HTTP2
import Testing

@Suite struct ServerChangingFieldTests {
  private struct Client {
    var encoder = ServerTestEncoder(refersToNames: true)
    var stream: UInt32 = 1

    mutating func block(_ fields: [ServerField]) -> [UInt8] { encoder.encode(fields) }

    mutating func call(_ block: [UInt8]) -> [UInt8] {
      defer { stream += 2 }
      return ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))
    }
  }

  private func asked(_ server: ServerUnderTest, _ bytes: [UInt8]) -> Int {
    let before = server.count(.head)
    #expect(server.receive(bytes) == nil)
    return server.count(.head) - before
  }

  @Test func aDeadlineOfItsOwnMakesNoNewBlock() throws {
    let server = try ServerUnderTest.connected()
    var client = Client()
    var heads: [Int] = []
    for number in 0..<20 {
      let block = client.block(ServerField.call("/a/A", timeout: "\(number)m", caller: "me"))
      heads.append(asked(server, client.call(block)))
      #expect(server.calls.last?.timeout == "\(number)m")
      _ = try server.frames()
    }
    // In the first all is new, in the second all but the names.
    #expect(heads == [1, 1] + Array(repeating: 0, count: 18))
    #expect(Set(server.calls.map(\.caller)) == ["me"])
    // Another caller is another block, and so is the first again for one without a deadline.
    let other = client.block(ServerField.call("/a/A", timeout: "x", caller: "you"))
    #expect(asked(server, client.call(other)) == 1)
    #expect(server.calls.last?.caller == "you")
    let without = client.block(ServerField.call("/a/A", caller: "me"))
    #expect(asked(server, client.call(without)) == 1)
    #expect(server.calls.last?.timeout == nil && server.calls.last?.caller == "me")
    let again = client.block(ServerField.call("/a/A", timeout: "y", caller: "me"))
    #expect(asked(server, client.call(again)) == 0)
    server.connection.forgetHeaderBlocks()
    let asBefore = client.block(ServerField.call("/a/A", timeout: "z", caller: "me"))
    #expect(asked(server, client.call(asBefore)) == 1)
    server.close()
  }

  /// The same bytes behind another table are other fields, and other bytes may be the same ones.
  @Test(arguments: 0..<8) func whatIsAnsweredIsWhatWasSent(seed: Int) throws {
    var numbers = Seeded(seed)
    let server = try ServerUnderTest.connected()
    let encoder = ReferenceEncoder(tableBytesMax: 4096)
    var stream: UInt32 = 1
    var expected: [ServerUnderTest.Call] = []
    for _ in 0..<600 {
      if Int.random(in: 0..<60, using: &numbers) == 0 {
        encoder.setTable(bytes: [0, 200, 1000, 4096].randomElement(using: &numbers)!)
      }
      let path = ["A", "B"].randomElement(using: &numbers)!
      let caller = ["me", "you"].randomElement(using: &numbers)!
      let timeout =
        Int.random(in: 0..<10, using: &numbers) == 0
        ? nil : "\(Int.random(in: 0..<1000, using: &numbers))m"
      var fields = ServerField.call("/a/\(path)", timeout: timeout, caller: caller)
      // Anywhere behind the pseudo-header fields.
      let regular = fields[4...].shuffled(using: &numbers)
      if Int.random(in: 0..<4, using: &numbers) > 0 { fields[4...] = regular[...] }
      let secret = Bool.random(using: &numbers)
      let block = encoder.encode(fields) { secret && $0.name == "caller" }
      #expect(
        server.receive(
          ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))) == nil)
      expected.append(
        ServerUnderTest.Call(
          head: Int32(path.utf8.first!), body: grpcMessage([]), timeout: timeout, caller: caller))
      #expect(server.calls.last == expected.last, "seed \(seed), stream \(stream)")
      _ = try server.frames()
      stream += 2
    }
    #expect(server.calls == expected)
    server.close()
  }

  @Test func mostCallsOfARealEncoderAreKnown() throws {
    let server = try ServerUnderTest.connected()
    let encoder = ReferenceEncoder(tableBytesMax: 4096)
    let count = 1000
    for number in 0..<count {
      let block = encoder.encode(
        ServerField.call("/a/A", timeout: "\(1_000_000 + number)u", caller: "me"))
      let stream = UInt32(2 * number + 1)
      #expect(
        server.receive(
          ServerFrame.headers(stream, block) + ServerFrame.data(stream, grpcMessage([]))) == nil)
      #expect(server.calls.last?.timeout == "\(1_000_000 + number)u")
      _ = try server.frames()
    }
    // The table is full after some 80 deadlines: the others are entered anew then.
    #expect(server.count(.head) < count / 10)
    server.close()
  }

  /// What stands behind the field that changes may be evicted by it.
  @Test(arguments: [(room: 0, isGood: false), (room: 46, isGood: true)])
  func referencesBehindItMustStillStandForAField(room: Int, isGood: Bool) throws {
    let server = try ServerUnderTest.connected()
    var client = Client()
    let fields = ServerField.call("/a/A")
    let pseudo = [0x83, 0x86] + ServerField.literals(Array(fields[2...3]))
    func entered(_ field: ServerField) -> [UInt8] { [0x40] + ServerField.literals([field])[1...] }
    /// `te` and content-type are the two oldest entries, behind `deadlines` others.
    func block(_ timeout: String, behind deadlines: UInt8) -> [UInt8] {
      let value = [UInt8(timeout.utf8.count)] + Array(timeout.utf8)
      return pseudo + [0x40 | 62] + value + [0x80 | (64 + deadlines), 0x80 | (63 + deadlines)]
    }
    let first =
      pseudo + entered(fields[5]) + entered(fields[4]) + entered(ServerField("grpc-timeout", "1m"))
    #expect(asked(server, client.call(first)) == 1)
    #expect(asked(server, client.call(block("2m", behind: 1))) == 1)
    #expect(asked(server, client.call(block("3m", behind: 2))) == 0)
    // 42 + 60 + 3 x 46 bytes are in the table: it may have no more, or one deadline more.
    let size = 240 + room - 31
    let update = [0x3f, UInt8(size & 127) | 128, UInt8(size >> 7)]
    #expect(asked(server, client.call(update + ServerField.literals(fields))) == 1)
    _ = try server.frames()
    let fault = server.receive(client.call(block("4m", behind: 3)))
    #expect(fault == (isGood ? nil : .protocolViolation(.compressionError)))
    #expect(server.count(.head) == 3)
    #expect((server.calls.last?.timeout == "4m") == isGood)
    server.close()
  }

  @Test(arguments: ["a\nb", "a\u{0}b", "\u{7f}"]) func aBadValueEndsItsStreamAlone(value: String)
    throws
  {
    let server = try ServerUnderTest.connected()
    var client = Client()
    for timeout in ["1m", "2m", "3m"] {
      let block = client.block(ServerField.call("/a/A", timeout: timeout))
      #expect(server.receive(client.call(block)) == nil)
    }
    _ = try server.frames()
    let before = server.calls.count
    let block = client.block(ServerField.call("/a/A", timeout: value))
    #expect(asked(server, client.call(block)) == 0)
    #expect(server.calls.count == before)
    #expect(try server.frames().map(\.code) == [1])
    let good = client.block(ServerField.call("/a/A", timeout: " 4m\t"))
    #expect(asked(server, client.call(good)) == 0)
    #expect(server.calls.last?.timeout == "4m")
    server.close()
  }

  /// Of two, the first is the call's, be it a reference or entered now.
  @Test func twoOfThemAreReadEachTime() throws {
    let server = try ServerUnderTest.connected()
    var client = Client()
    for number in 0..<6 {
      let fields =
        ServerField.call("/a/A", timeout: "7m") + [ServerField("grpc-timeout", "\(number)u")]
      #expect(asked(server, client.call(client.block(fields))) == 1, "\(number)")
      #expect(server.calls.last?.timeout == "7m")
      _ = try server.frames()
    }
    server.close()
  }
}
