// Bytes of a broker, right and wrong, in any pieces: what reads them neither traps nor depends on how they were cut.
import BrokerTesting
import Messaging
import Testing

@testable import RabbitMQ

struct FrameTests {
  private static let table =
    short("x-delivery-count") + [0x6c] + u64(3) + short("cloudEvents_id") + [0x53] + long("order")
    + short("nested") + [0x46] + long(short("a") + [0x41] + long([0x74, 1]))
  private static let frames: [[UInt8]] = [
    method(M.start, [0, 9] + long(table) + long("PLAIN") + long("en_US"), channel: 0),
    method(M.tune, u16(1) + u32(2) + u16(3), channel: 0),
    method(M.close, close(320, "CONNECTION_FORCED"), channel: 0),
    method(M.blocked, short("low on disk"), channel: 0),
    method(M.channelClose, close(404, "NOT_FOUND", about: M.publish)),
    method(M.queueDeclareOK, short("queue") + u32(1) + u32(2)),
    method(M.ack, u64(1) + [1]), method(M.nack, u64(1) + [1]),
    method(M.return, u16(312) + short("NO_ROUTE") + short("") + short("key")),
    deliver(1),
    header(
      5,
      u16(0b1010_0110_1010_0000) + short("json") + long(table) + short("c")
        + short("r") + short("id") + short("t")), body([1, 2, 3, 4, 5]), frame(8, 0, []),
  ]

  /// What is made of bytes that come in pieces of this size: a word for each frame, and how it ended.
  private func story(_ bytes: [UInt8], step: Int) -> [String] {
    let codec = MethodCodec()
    var headers = HeaderReader()
    var reader = FrameReader(payloadBytesMax: 131_072, capacity: 300_000)
    defer { reader.free() }
    var words: [String] = []
    var place = 0
    do throws(BrokerError) {
      while true {
        while let frame = try reader.next() {
          switch frame.kind {
          case .method: words.append("\(try unsafe codec.decode(frame.payload))")
          case .header:
            let header = try unsafe headers.read(frame.payload)
            words.append("\(header.id) \(header.type) \(header.earlierDeliveries)")
          case .body, .heartbeat: words.append("\(unsafe frame.payload.count)")
          }
        }
        if place == bytes.count { return words }
        let part = bytes[place..<min(bytes.count, place + step)]
        unsafe reader.room().copyBytes(from: part)
        reader.received(part.count)
        place += part.count
      }
    } catch {
      return words + ["\(error)"]
    }
  }

  @Test func readsFramesInAnyPieces() {
    let bytes = Self.frames.flatMap { $0 }
    let whole = story(bytes, step: bytes.count)
    #expect(whole.count == Self.frames.count)
    #expect(whole[9] == #"deliver(consumer: "0", tag: 1, isRedelivered: false)"#)
    #expect(whole[10] == "order t 3")
    for step in [1, 2, 3, 7, 8, 100] { #expect(story(bytes, step: step) == whole) }
  }

  @Test func survivesWhateverComes() {
    var random = Seeded(15)
    for _ in 0..<3000 {
      var bytes = (0..<Int.random(in: 1...4, using: &random)).flatMap { _ in
        Self.frames.randomElement(using: &random)!
      }
      for _ in 0..<Int.random(in: 1...6, using: &random) {
        let place = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
        case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        case 2: bytes[place] = [0, 1, 0x7f, 0x80, 0xff].randomElement(using: &random)!
        default: if bytes.count > 8 { bytes.remove(at: place) }
        }
      }
      let whole = story(bytes, step: bytes.count)
      #expect(story(bytes, step: Int.random(in: 1...9, using: &random)) == whole)
    }
  }

  /// As large as a frame may be; one byte more is none.
  @Test func knowsHowLargeFramesAre() {
    let largest = [UInt8](repeating: 7, count: 131_072)
    #expect(story(body(largest) + body(largest), step: 4096) == ["131072", "131072"])
    #expect(
      story(body(largest + [7]), step: 4096).last?.contains("a frame of 131073 bytes") == true)
    let method = frame(1, 0, [UInt8](repeating: 0, count: 8193))
    #expect(story(method, step: 4096).last?.contains("a frame of 8193 bytes") == true)
  }
}

struct PendingTests {
  /// Against a model that keeps everything.
  @Test func settlesEachOnce() {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<200 {
      var pending = PendingConfirms()
      var model: [UInt64: UInt64] = [:]
      var sent: UInt64 = 0
      for _ in 0..<Int.random(in: 1...300, using: &random) {
        if Bool.random(using: &random) {
          sent += 1
          pending.append(number: sent + 1000, mark: 0)
          model[sent] = sent + 1000
        } else if sent > 0 {
          let tag = UInt64.random(in: 1...sent, using: &random)
          let multiple = Bool.random(using: &random)
          var answered: [UInt64] = []
          while let next = pending.next(tag, multiple: multiple) { answered.append(next.number) }
          let expected = model.keys.filter { multiple ? $0 <= tag : $0 == tag }.sorted()
          #expect(answered == expected.map { model[$0]! })
          for tag in expected { model[tag] = nil }
        }
        #expect(pending.newest == sent)
      }
    }
  }

  @Test func tellsEachAcceptedOneOnce() {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<200 {
      var pending = PendingAccepts()
      var newest: UInt64 = 0
      /// What the broker waits for, and what we have accepted and not told.
      var outstanding: Set<UInt64> = []
      var accepted: Set<UInt64> = []
      for _ in 0..<Int.random(in: 1...300, using: &random) {
        switch Int.random(in: 0..<4, using: &random) {
        case 0, 1:
          newest += 1
          let isNext = pending.append(newest)
          #expect(isNext)
          outstanding.insert(newest)
        case 2:
          guard let tag = outstanding.randomElement(using: &random) else { continue }
          pending.accept(tag)
          accepted.insert(tag)
        default:
          pending.tell { tag, multiple in
            // RabbitMQ ends a channel over a tag that it does not wait for.
            #expect(outstanding.contains(tag))
            let told: Set<UInt64> = multiple ? outstanding.filter { $0 <= tag } : [tag]
            #expect(told.isSubset(of: accepted))
            outstanding.subtract(told)
            accepted.subtract(told)
          }
          #expect(accepted.isEmpty)
        }
        #expect(pending.unaccepted == outstanding.subtracting(accepted).count)
      }
      for wrong in [newest, newest + 2] {
        let isNext = pending.append(wrong)
        #expect(!isNext)
      }
    }
  }
}
