/// The gRPC status codes (grpc/grpc doc/statuscodes.md).
package enum StatusCode: Int, CaseIterable, Sendable, BitwiseCopyable {
  case ok = 0
  case cancelled
  case unknown
  case invalidArgument
  case deadlineExceeded
  case notFound
  case alreadyExists
  case permissionDenied
  case resourceExhausted
  case failedPrecondition
  case aborted
  case outOfRange
  case unimplemented
  case `internal`
  case unavailable
  case dataLoss
  case unauthenticated
}
