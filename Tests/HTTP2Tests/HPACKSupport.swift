// What the tests of HPACK share: a sink that keeps fields, libnghttp2's encoder, and seeded numbers.
import CNGHTTP2
import HTTP2
import Testing

/// Keeps the fields that it is told of.
struct FieldList: HPACKFieldSink {
  var fields: [ServerField] = []
  var skippedBytes: [Int] = []

  mutating func field(_ name: Span<UInt8>, _ value: Span<UInt8>) {
    fields.append(ServerField(ServerUnderTest.text(name), ServerUnderTest.text(value)))
  }

  mutating func skippedField(listBytes: Int) { skippedBytes.append(listBytes) }
}

/// A decoder with what it needs.
final class DecoderUnderTest {
  var decoder: HPACKDecoder
  var scratch: HPACKScratch

  init(tableBytesMax: Int = 4096, fieldBytesMax: Int = 65_536) {
    decoder = HPACKDecoder(tableBytesMax: tableBytesMax)
    scratch = HPACKScratch(capacity: fieldBytesMax)
  }

  /// The fields of a whole block.
  func decode(_ block: [UInt8]) throws(HPACKError) -> [ServerField] { try list(block).fields }

  func list(_ block: [UInt8]) throws(HPACKError) -> FieldList {
    var list = FieldList()
    let used = try decoder.decode(block.span, isLast: true, &scratch, &list)
    #expect(used == block.count)
    return list
  }

  /// The fields of a block that comes in parts, cut behind every one of `lengths` bytes.
  func list(_ block: [UInt8], parts lengths: () -> Int) throws(HPACKError) -> (FieldList, Int) {
    var list = FieldList()
    var held: [UInt8] = []
    var heldMost = 0
    var at = 0
    while true {
      let end = min(block.count, at + max(1, lengths()))
      held += block[at..<end]
      at = end
      let isLast = at == block.count
      let used = try decoder.decode(held.span, isLast: isLast, &scratch, &list)
      held.removeFirst(used)
      heldMost = max(heldMost, held.count)
      if isLast { break }
    }
    #expect(held.isEmpty)
    return (list, heldMost)
  }
}

/// libnghttp2's encoder.
@safe final class ReferenceEncoder {
  private let deflater: OpaquePointer

  init(tableBytesMax: Int) {
    var made: OpaquePointer?
    guard unsafe nghttp2_hd_deflate_new(&made, tableBytesMax) == 0, let made = unsafe made else {
      fatalError("no encoder")
    }
    unsafe deflater = made
  }

  deinit { unsafe nghttp2_hd_deflate_del(deflater) }

  func setTable(bytes: Int) { _ = unsafe nghttp2_hd_deflate_change_table_size(deflater, bytes) }

  /// - Parameter isSecret: whether a field is never to be entered into a table.
  func encode(_ fields: [ServerField], isSecret: (ServerField) -> Bool = { _ in false }) -> [UInt8]
  {
    var texts: [UInt8] = []
    for field in fields { texts += Array(field.name.utf8) + Array(field.value.utf8) }
    texts.append(0)
    return unsafe texts.withUnsafeMutableBufferPointer { texts in
      var at = texts.baseAddress!
      var pairs = unsafe [nghttp2_nv]()
      for field in fields {
        let flags = isSecret(field) ? UInt8(NGHTTP2_NV_FLAG_NO_INDEX.rawValue) : 0
        let nameCount = field.name.utf8.count
        unsafe pairs.append(
          nghttp2_nv(
            name: at, value: at + nameCount, namelen: nameCount, valuelen: field.value.utf8.count,
            flags: flags))
        unsafe at += nameCount + field.value.utf8.count
      }
      let most = unsafe nghttp2_hd_deflate_bound(deflater, pairs, pairs.count)
      var block = [UInt8](repeating: 0, count: most)
      let count = unsafe nghttp2_hd_deflate_hd(deflater, &block, most, pairs, pairs.count)
      precondition(count >= 0)
      return Array(block[..<count])
    }
  }
}

/// SplitMix64: the same numbers for the same seed.
struct Seeded: RandomNumberGenerator {
  private var state: UInt64

  init(_ seed: Int) { state = UInt64(seed) }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: next()) }
}

/// Fields as clients send them, and some that they don't.
struct FieldSource {
  private static let names = [
    ":method", ":path", ":scheme", "content-type", "te", "authorization", "grpc-timeout", "x",
    "cookie",
    "holdfast-caller", "traceparent", "x-request-id", "via", "accept-encoding",
  ]
  private static let values = [
    "", "POST", "GET", "/", "/holdfast.v1.ReservationService/Reserve", "http", "application/grpc",
    "trailers", "identity,gzip", "1S", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
  ]

  var numbers: Seeded

  mutating func field() -> ServerField {
    let name = Bool.random(using: &numbers) ? Self.names.randomElement(using: &numbers)! : text(20)
    let value =
      Int.random(in: 0..<3, using: &numbers) > 0
      ? Self.values.randomElement(using: &numbers)!
      : text(Int.random(in: 0..<20, using: &numbers) == 0 ? 3000 : 40)
    return ServerField(name, value)
  }

  mutating func fields(_ most: Int) -> [ServerField] {
    (0..<Int.random(in: 0...most, using: &numbers)).map { _ in field() }
  }

  private mutating func text(_ most: Int) -> String {
    let count = Int.random(in: 0...most, using: &numbers)
    return String((0..<count).map { _ in Character(UnicodeScalar(numbers.byte() & 0x7f)) })
  }
}

/// Bytes from hexadecimal digits; blanks and line ends between them do not matter.
func hex(_ text: String) -> [UInt8] {
  let digits = text.compactMap { $0.hexDigitValue }
  return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}
