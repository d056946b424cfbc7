// Header blocks of requests, the way that a client's come: on a connection of a server.
package import GRPC
internal import HTTP2

/// A header block that the server's connection does not take.
package struct MalformedHeaderBlock: Error {}

/// Makes requests' header fields of header blocks, all on one connection.
package final class RequestHeaderBlocks {
  private let context: ServerContext
  private let http: ServerConnection
  private var stream: UInt32 = 1

  /// - Parameter metadata: the handler's, as in `CallHandler.metadata`.
  package init(metadata: [StaticString]) {
    let plenty = Budget(burst: 1 << 40, perSecond: 1)
    context = ServerContext(
      limits: HTTP2Limits(
        concurrentStreams: 10, headerListBytesMax: 16_384, headerBlockBytesMax: 1 << 20,
        headerTableBytes: 4096, bufferedBytesMax: 1 << 20,
        connectionWindowBytes: 1 << 20, streamWindowBytes: 1 << 16, resets: plenty, pings: plenty,
        settings: plenty, emptyFrames: plenty, lateFrames: plenty,
        drain: DrainLimits(
          streamsMax: 8, streamBytesMax: 1024, nanosecondsMax: 1_000_000_000, kibibytes: plenty)),
      captured: RequestField.allCases.map(\.name) + metadata,
      header: ContentType.field, trailer: ConstantField("grpc-status", "0"))
    guard let http = context.open(token: 1) else { preconditionFailure("no memory") }
    self.http = http
    receive(Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + Frames.settings())
  }

  deinit {
    http.close()
    releaseClosed()
  }

  /// Calls `body` with the fields of a request, names and values of less than 254 bytes.
  package func with<Result>(
    _ fields: [(String, [UInt8])], certificate: CertificateName? = nil,
    _ body: (RequestHeaders) throws -> Result
  ) throws -> Result {
    receive(Frames.frame(1, 5, stream, fields.flatMap { Frames.literal($0.0, $0.1) }))
    guard context.eventCount > 0, context.event(at: 0).kind == .head else {
      throw MalformedHeaderBlock()
    }
    let result = try body(
      RequestHeaders(context.event(at: 0).stream, certificate: certificate))
    context.clearEvents()
    receive(Frames.frame(3, 0, stream, Frames.number(8)))
    releaseClosed()
    stream += 2
    return result
  }

  /// The same, where all values are text.
  package func with<Result>(
    _ fields: [(String, String)], certificate: CertificateName? = nil,
    _ body: (RequestHeaders) throws -> Result
  ) throws -> Result {
    try with(fields.map { ($0.0, Array($0.1.utf8)) }, certificate: certificate, body)
  }

  private func receive(_ bytes: [UInt8]) {
    let fault = unsafe bytes.withUnsafeBytes { unsafe http.receive($0) }
    precondition(fault == nil, "the connection ends")
  }

  private func releaseClosed() {
    for index in 0..<context.eventCount where context.event(at: index).kind == .closed {
      context.release(context.event(at: index).stream)
    }
    context.clearEvents()
  }
}
