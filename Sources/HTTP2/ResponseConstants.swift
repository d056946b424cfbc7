// The parts of answers that never change, made once per loop.
internal import CNGHTTP2

/// Response headers as libnghttp2 wants them, and the frame of good trailers.
@safe struct ResponseConstants {
  static let headerCount = 2
  static let trailersLength = 24

  /// :status 200 and content-type application/grpc.
  let headers: UnsafeMutablePointer<nghttp2_nv>
  /// HEADERS with END_STREAM and END_HEADERS, stream number left open: one literal field without
  /// indexing (RFC 7541 section 6.2.2), which neither reads nor changes the dynamic table.
  let trailers: UnsafeMutablePointer<UInt8>

  init() {
    unsafe headers = .allocate(capacity: Self.headerCount)
    unsafe headers.initialize(to: Self.entry(":status", "200"))
    unsafe (headers + 1).initialize(to: Self.entry("content-type", "application/grpc"))
    unsafe trailers = .allocate(capacity: Self.trailersLength)
    let head: [UInt8] = [0, 0, 15, 1, 0x05, 0, 0, 0, 0, 0x00, 11]
    let bytes = head + Array("grpc-status".utf8) + [1, UInt8(ascii: "0")]
    for (index, byte) in bytes.enumerated() { unsafe trailers[index] = byte }
  }

  func destroy() {
    unsafe headers.deallocate()
    unsafe trailers.deallocate()
  }

  /// Both strings live for ever, so the library need not copy them.
  private static func entry(_ name: StaticString, _ value: StaticString) -> nghttp2_nv {
    let flags = NGHTTP2_NV_FLAG_NO_COPY_NAME.rawValue | NGHTTP2_NV_FLAG_NO_COPY_VALUE.rawValue
    return unsafe nghttp2_nv(
      name: UnsafeMutablePointer(mutating: name.utf8Start),
      value: UnsafeMutablePointer(mutating: value.utf8Start), namelen: name.utf8CodeUnitCount,
      valuelen: value.utf8CodeUnitCount, flags: UInt8(flags))
  }
}

/// The fields of an answer that has headers alone: used again for every such answer, so that a refusal
/// costs no memory either.
@safe package final class HeaderFields {
  private static let fieldsMax = 6
  private static let bytesMax = 12 * 1024

  private let entries: UnsafeMutablePointer<nghttp2_nv>
  private let bytes: UnsafeMutablePointer<UInt8>
  private var count = 0
  private var used = 0

  package init() {
    unsafe entries = .allocate(capacity: Self.fieldsMax)
    unsafe entries.initialize(repeating: nghttp2_nv(), count: Self.fieldsMax)
    unsafe bytes = .allocate(capacity: Self.bytesMax)
  }

  deinit {
    unsafe entries.deallocate()
    unsafe bytes.deallocate()
  }

  package func reset() {
    count = 0
    used = 0
  }

  /// Adds a field behind :status. One that does not fit (4 fields, 12 KiB of values) is left out.
  package func add(_ name: StaticString, _ value: Span<UInt8>) {
    // Two entries are :status and content-type.
    guard count + 2 < Self.fieldsMax, value.count <= Self.bytesMax - 8 - used else { return }
    let start = unsafe bytes + used
    unsafe value.withUnsafeBufferPointer { source in
      guard let base = source.baseAddress else { return }
      unsafe start.update(from: base, count: source.count)
    }
    unsafe set(count + 2, name, start, value.count)
    used += value.count
    count += 1
  }

  /// Adds a field with a constant value.
  package func add(_ name: StaticString, _ value: StaticString) {
    let value = unsafe UnsafeBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount)
    add(name, unsafe value.span)
  }

  func withEntries(httpStatus: Int, _ body: (UnsafePointer<nghttp2_nv>, Int) -> Void) {
    // The last bytes are kept free for the three digits.
    let digits = unsafe bytes + Self.bytesMax - 8
    let status = max(100, min(999, httpStatus))
    unsafe digits[0] = UInt8(48 + status / 100)
    unsafe digits[1] = UInt8(48 + status / 10 % 10)
    unsafe digits[2] = UInt8(48 + status % 10)
    unsafe set(0, ":status", digits, 3)
    let type: StaticString = "application/grpc"
    unsafe set(1, "content-type", UnsafeMutablePointer(mutating: type.utf8Start), type.utf8CodeUnitCount)
    unsafe body(entries, count + 2)
  }

  private func set(
    _ index: Int, _ name: StaticString, _ value: UnsafeMutablePointer<UInt8>, _ length: Int
  ) {
    unsafe entries[index] = nghttp2_nv(
      name: UnsafeMutablePointer(mutating: name.utf8Start), value: value,
      namelen: name.utf8CodeUnitCount, valuelen: length, flags: 0)
  }
}
