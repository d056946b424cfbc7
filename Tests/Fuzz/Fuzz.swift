// What libFuzzer calls: HOLDFAST_FUZZ_TARGET names the target. An input that breaks a promise traps.
internal import GRPC
internal import HTTP2

#if canImport(Glibc)
  internal import Glibc
#endif

private let target: String =
  unsafe getenv("HOLDFAST_FUZZ_TARGET").map { unsafe String(cString: $0) } ?? "frames"

@_cdecl("LLVMFuzzerTestOneInput")
package func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  guard count > 1, let data = unsafe data else { return 0 }
  let input = unsafe Array(UnsafeBufferPointer(start: data, count: count))
  switch target {
  case "frames": FuzzTargets.frames(input)
  case "headers": FuzzTargets.headers(input)
  case "calls": FuzzTargets.calls(input)
  case "orders": OrderFuzz.orders(input)
  case "json": OrderFuzz.json(input)
  case "hpack": fuzzHPACK(input.span.extracting(1..<input.count), cut: Int(input[0]))
  case "amqp": BrokerFuzz.frames(input)
  case "broker": BrokerFuzz.connection(input)
  default: preconditionFailure("no fuzz target \(target)")
  }
  return 0
}

enum FuzzTargets {
  static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

  /// A connection's bytes behind the preface; the first byte of the input says how they are cut. Where
  /// the owner never answers, a connection fails or does not, whatever the pieces that its bytes come
  /// in. (Where it answers, a stream may have ended before its late frames come, or not yet.)
  static func frames(_ input: [UInt8]) {
    let bytes = preface + input[1...]
    let whole = FuzzedServer(answers: false)
    let fault = whole.receive(bytes[...])
    whole.finish()
    let failed = feed(FuzzedServer(answers: false), bytes, cutBy: input[0])
    precondition(failed == fault, "a fault that depends on how the bytes were cut")
    _ = feed(FuzzedServer(answers: true), bytes, cutBy: input[0])
  }

  /// Requests' bytes for `ServerCall`, of all kinds of call: the first byte says the kind and how they are
  /// cut. What it makes of them must not depend on the pieces, and no message is longer than allowed.
  static func calls(_ input: [UInt8]) {
    let type = MethodType.allCases[Int(input[0] & 3)]
    let encoding: MessageEncoding = input[0] & 4 == 0 ? .identity : .gzip
    let body = Array(input[1...])
    let whole = inputs(of: body, type, encoding, step: body.count + 1)
    precondition(
      inputs(of: body, type, encoding, step: 1 + Int(input[0] >> 3)) == whole,
      "a call that depends on how its bytes were cut")
  }

  /// What the call heard of its request until it was over.
  private static func inputs(
    of body: [UInt8], _ type: MethodType, _ encoding: MessageEncoding, step: Int
  ) -> [ServerCall.Input] {
    var call = ServerCall()
    call.start(timeoutNanoseconds: .max, openedNanoseconds: 0, connection: 0)
    var heard: [ServerCall.Input] = []
    var used = 0
    var end = 0
    while true {
      end = min(body.count, end + step)
      while call.phase == .receiving {
        let input = call.next(
          in: body.span.extracting(used..<end), hasEnded: end == body.count, type: type,
          encoding: encoding, messageBytesMax: 1000)
        if input == .nothing { break }
        heard.append(input)
        switch input {
        case .nothing: break
        case .message(let length, _):
          precondition(length <= 1000 && used + 5 + length <= end, "more than there is")
          used += 5 + length
          if !type.streamsRequests { call.halfClosed() }
        case .halfClose: call.halfClosed()
        case .reject: return heard
        }
      }
      if end == body.count || call.phase != .receiving { return heard }
    }
  }

  private static func feed(_ server: FuzzedServer, _ bytes: [UInt8], cutBy first: UInt8) -> Bool {
    var seed = UInt32(first)
    var at = 0
    var failed = false
    while at < bytes.count {
      seed = seed &* 1_664_525 &+ 1_013_904_223
      let end = min(bytes.count, at + 1 + Int(seed >> 16) % (1 + Int(first) * 4))
      if server.receive(bytes[at..<end]) { failed = true }
      at = end
    }
    server.finish()
    return failed
  }

  /// Header blocks: each is a length (two bytes, at most 16,383) and as many bytes. The second pass
  /// sends every block twice, so that the cache of blocks answers.
  static func headers(_ input: [UInt8]) {
    for copies in 1...2 {
      let server = FuzzedServer(answers: true)
      var failed = server.receive((preface + frame(4, 0, 0, []))[...])
      var at = 0
      var stream: UInt32 = 1
      while at + 2 <= input.count, !failed {
        let length = min(Int(input[at] & 0x3f) << 8 | Int(input[at + 1]), input.count - at - 2)
        let block = Array(input[at + 2..<at + 2 + length])
        at += 2 + length
        for _ in 0..<copies where !failed {
          // The block in one frame, or in three.
          let cut = input[0] & 0x80 == 0 ? block.count : block.count / 3
          var bytes = frame(1, cut == block.count ? 5 : 1, stream, Array(block[..<cut]))
          if cut < block.count {
            bytes += frame(9, 0, stream, Array(block[cut..<(2 * cut)]))
            bytes += frame(9, 4, stream, Array(block[(2 * cut)...]))
          }
          failed = server.receive(bytes[...])
          stream += 2
        }
      }
      server.finish()
    }
  }

  private static func frame(
    _ kind: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: [UInt8]
  ) -> [UInt8] {
    let length = payload.count
    let number = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: stream >> $0) }
    return [UInt8(length >> 16), UInt8(length >> 8 & 0xff), UInt8(length & 0xff), kind, flags]
      + number + payload
  }
}
