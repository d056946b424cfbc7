package import Bytes
package import HTTP2

/// The response to one call, or one message of a stream of responses, while it is made. One per loop, used
/// again for every call.
@safe package final class Response {
  package enum Kind: Equatable, BitwiseCopyable {
    /// A message (with status OK where it ends the call).
    case message
    /// A status without a message.
    case failure(StatusCode)
  }

  /// The message. It is written straight into the stream's outgoing bytes as long as they have room.
  package let message = ProtoWriter()

  // Behind a constant pointer: properties of a class are checked for exclusive access at every use.
  private let state: UnsafeMutablePointer<State>
  private let fields = HeaderFields()
  private let statusText = HeaderText(capacity: 4096)
  private let detailsText = HeaderText(capacity: 8192)
  private let failures = FailureCache()

  @unsafe private struct State {
    var kind = Kind.message
    /// The failure's header block, and where the part begins that trailers consist of.
    var block: UnsafePointer<UInt8>?
    var blockCount = 0
    var trailersStart = 0
    /// The failure where it is kept, with its block.
    var kept: UnsafeMutablePointer<KeptBlock>?
    /// Of this response alone, so a failure with some is not kept.
    var trailers = InlineArray<2, Trailer>(repeating: Trailer(name: "", value: 0))
    var trailerCount = 0
  }

  /// A field of the trailers that is no gRPC's.
  private struct Trailer: BitwiseCopyable {
    let name: StaticString
    let value: UInt64
  }

  package init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
  }

  deinit {
    message.destroy()
    unsafe state.deallocate()
  }

  package var kind: Kind { unsafe state.pointee.kind }

  /// Begins a message in `room`, which must stay until the response is sent.
  package func begin(in room: UnsafeMutableRawBufferPointer) {
    unsafe state.pointee.kind = .message
    unsafe state.pointee.trailerCount = 0
    unsafe message.reset(in: room)
  }

  /// Begins a message in the response's own memory.
  package func begin() {
    unsafe state.pointee.kind = .message
    unsafe state.pointee.trailerCount = 0
    message.reset()
  }

  // MARK: Trailers

  /// Tells a number in the trailers, whatever ends the call; two of a response at most, from its beginning on. Of a
  /// response in parts, or of a stream of them, nothing is told.
  package func addTrailer(_ name: StaticString, _ value: UInt64) {
    let count = unsafe state.pointee.trailerCount
    precondition(count < 2, "two trailers at most")
    unsafe state.pointee.trailers[count] = Trailer(name: name, value: value)
    unsafe state.pointee.trailerCount = count + 1
  }

  /// The trailers behind a message that ends its call; nil: the constant one alone.
  package var trailers: HeaderFields? {
    if unsafe state.pointee.trailerCount == 0 { return nil }
    fields.begin()
    fields.add("grpc-status", decimal: 0)
    addTrailers()
    return fields
  }

  private func addTrailers() {
    for index in 0..<(unsafe state.pointee.trailerCount) {
      let trailer = unsafe state.pointee.trailers[index]
      fields.add(trailer.name, decimal: trailer.value)
    }
  }

  // MARK: Failures

  /// Makes this a failure.
  /// - Parameters:
  ///   - text: for people; grpc-message. What comes to more than 4 KiB percent-encoded is cut off.
  ///   - details: a serialized google.rpc.Status, or nothing; grpc-status-details-bin. What comes to
  ///     more than 8 KiB in base64 is left out.
  ///   - retryMilliseconds: how long the caller should wait before it tries again; 0: says nothing.
  ///     grpc-retry-pushback-ms, which clients obey by themselves (gRFC A6).
  ///   - httpStatus: other than 200 for what is not gRPC at all.
  package func fail(
    _ code: StatusCode, _ text: Span<UInt8>, details: Span<UInt8>, retryMilliseconds: Int32 = 0,
    httpStatus: Int = 200
  ) {
    fields.begin(status: httpStatus)
    fields.add(ContentType.field.name, ContentType.field.value)
    let trailersStart = fields.byteCount
    fields.add("grpc-status", decimal: UInt64(code.rawValue))
    statusText.reset()
    PercentEncoding.append(text, to: statusText)
    statusText.withSpan { fields.add("grpc-message", $0) }
    detailsText.reset()
    Base64.append(details, to: detailsText)
    if detailsText.count > 0 {
      detailsText.withSpan { fields.add("grpc-status-details-bin", $0) }
    }
    if retryMilliseconds > 0 {
      fields.add("grpc-retry-pushback-ms", decimal: UInt64(retryMilliseconds))
    }
    // gRPC over HTTP/2, compression: a rejection for its encoding names those that are taken.
    if code == .unimplemented {
      fields.add("grpc-accept-encoding", MessageEncodings.supportedField)
    }
    addTrailers()
    unsafe state.pointee.kind = .failure(code)
    fields.withBlock { block in
      unsafe block.withUnsafeBufferPointer {
        // The block lies in the fields' own memory until they begin another.
        unsafe state.pointee.block = $0.baseAddress
        unsafe state.pointee.blockCount = $0.count
      }
    }
    unsafe state.pointee.trailersStart = trailersStart
    unsafe state.pointee.kept = nil
  }

  /// Keeps the failure that was just made, to be asked for by its key. Two failures with the same key
  /// must be the same.
  package func keepFailure(as key: FailureKey) {
    guard case .failure(let code) = kind, let block = unsafe state.pointee.block,
      unsafe state.pointee.trailerCount == 0
    else { return }
    unsafe state.pointee.kept = failures.keep(
      key, code, UnsafeBufferPointer(start: block, count: state.pointee.blockCount),
      trailersStart: state.pointee.trailersStart)
  }

  /// Makes this the failure that was kept under `key`; false where it must be made. A flash sale is 99 %
  /// refusals, and nearly all of them are the same.
  package func failAgain(_ key: FailureKey) -> Bool {
    guard let found = unsafe failures.find(key), unsafe state.pointee.trailerCount == 0 else {
      return false
    }
    let block = unsafe KeptBlock.bytes(FailureCache.kept(found))
    unsafe state.pointee.kind = .failure(found.pointee.code)
    unsafe state.pointee.block = UnsafePointer(block.baseAddress)
    unsafe state.pointee.blockCount = block.count
    unsafe state.pointee.trailersStart = Int(found.pointee.trailersStart)
    unsafe state.pointee.kept = FailureCache.kept(found)
    return true
  }

  /// The header block of a failure that is kept, of headers that are the whole response; nil of any other.
  @unsafe package var keptFailure: UnsafeMutablePointer<KeptBlock>? { unsafe state.pointee.kept }

  /// Calls `body` with a failure's header block: of headers that are the whole response, or of trailers
  /// behind one that has begun.
  package func withFailureBlock<Result>(
    asTrailers: Bool, _ body: (Span<UInt8>) -> Result
  ) -> Result {
    let start = unsafe asTrailers ? state.pointee.trailersStart : 0
    let block = unsafe UnsafeBufferPointer(
      start: state.pointee.block.map { unsafe $0 + start },
      count: state.pointee.block == nil ? 0 : state.pointee.blockCount - start)
    return body(unsafe block.span)
  }
}

/// Names a failure: what its text and details depend on.
package struct FailureKey: Equatable, BitwiseCopyable {
  package let high: UInt64
  package let low: UInt64

  package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }
}

/// Header blocks of failures by key: direct-mapped, so that a new one takes the place of another, unless that
/// is still on its way out.
@safe final class FailureCache {
  @unsafe struct Entry {
    var key = FailureKey(high: 0, low: 0)
    var code = StatusCode.ok
    /// False while there is none. The block stands behind the entry.
    var isFull = false
    var trailersStart: UInt16 = 0
  }

  /// Sold-out SKUs of one sale, with some to spare: 4 MiB a loop.
  private static let entryCount = 4096
  private static let entryBytes = 1024
  private static let blockBytesMax =
    unsafe entryBytes - MemoryLayout<Entry>.stride - MemoryLayout<KeptBlock>.stride
  private let entries: UnsafeMutableRawPointer
  private var keptCount: UInt64 = 0

  init() {
    unsafe entries = .allocate(
      byteCount: Self.entryCount * Self.entryBytes, alignment: MemoryLayout<Entry>.alignment)
    for index in 0..<Self.entryCount {
      unsafe (entries + index * Self.entryBytes).initializeMemory(as: Entry.self, to: Entry())
    }
  }

  /// No stream may refer to a block any more.
  deinit { unsafe entries.deallocate() }

  func find(_ key: FailureKey) -> UnsafeMutablePointer<Entry>? {
    let entry = unsafe entry(of: key)
    return unsafe entry.pointee.isFull && entry.pointee.key == key ? entry : nil
  }

  /// The block as it is kept; nil where it is too long, or its place is taken.
  func keep(
    _ key: FailureKey, _ code: StatusCode, _ block: UnsafeBufferPointer<UInt8>, trailersStart: Int
  ) -> UnsafeMutablePointer<KeptBlock>? {
    let entry = unsafe entry(of: key)
    let kept = unsafe Self.kept(entry)
    guard block.count <= Self.blockBytesMax,
      unsafe !entry.pointee.isFull || !kept.pointee.isInUse
    else { return nil }
    keptCount += 1
    unsafe entry.pointee = Entry(
      key: key, code: code, isFull: true, trailersStart: UInt16(trailersStart))
    unsafe kept.initialize(to: KeptBlock(number: keptCount, count: block.count))
    _ = unsafe KeptBlock.bytes(kept).update(fromContentsOf: block)
    return unsafe kept
  }

  static func kept(_ entry: UnsafeMutablePointer<Entry>) -> UnsafeMutablePointer<KeptBlock> {
    unsafe UnsafeMutableRawPointer(entry + 1).assumingMemoryBound(to: KeptBlock.self)
  }

  private func entry(of key: FailureKey) -> UnsafeMutablePointer<Entry> {
    let mixed = (key.high ^ key.low &* 0x9e37_79b9_7f4a_7c15) &* 0xff51_afd7_ed55_8ccd
    let index = Int(mixed >> 52)
    return unsafe (entries + index * Self.entryBytes).assumingMemoryBound(to: Entry.self)
  }
}
