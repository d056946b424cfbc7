// Takes a backup from a server: one connection, one call, and the pieces that come with it.
internal import Bytes
internal import Client
internal import GRPC
internal import Log
internal import Posix
internal import StorePersistence
internal import Version

/// Why there is no backup from there.
enum BackupClientError: Error {
  /// The connection or the call failed.
  case failed(String)
  /// The server has found its directory damaged.
  case damaged(String)
  /// What came cannot be written.
  case writing(JournalError)
  case interrupted
}

/// One use, by one thread.
@safe final class BackupClient {
  private static let method = ClientMethod(
    path: "/holdfast.v1.BackupService/Backup", type: .serverStreaming)
  private static let pollMilliseconds: Int32 = 100

  private let client: ServiceClient
  private var isWhole = false

  init(_ target: ServiceTarget) throws(BackupClientError) {
    do throws(ServiceClientError) {
      client = try ServiceClient(
        target, methods: [Self.method], program: "holdfast-backup/\(Build.version)")
    } catch {
      throw .failed(error.description)
    }
    _ = client.start(0, [])
  }

  /// Writes all pieces. Whether they are a backup is for `BackupWriter.finish` to find.
  func receive(
    to writer: BackupWriter, isInterrupted: () -> Bool
  ) throws(BackupClientError) {
    var deadline = SystemClock.monotonicNanoseconds() + Limits.backupSilenceNanoseconds
    while true {
      if isInterrupted() { throw .interrupted }
      let now = SystemClock.monotonicNanoseconds()
      if now > deadline {
        throw .failed("the server is silent; is it a holdfast server, and is it running?")
      }
      var problem: BackupClientError?
      var ended: ServiceCallEnd?
      do throws(ServiceClientError) {
        let hasCome = try unsafe client.wait(milliseconds: Self.pollMilliseconds) { _, bytes in
          if problem == nil { problem = unsafe take(bytes, writer) }
        } end: {
          ended = $0
        }
        if hasCome { deadline = now + Limits.backupSilenceNanoseconds }
      } catch {
        throw .failed(error.description)
      }
      if let problem { throw problem }
      if let ended { return try end(ended) }
    }
  }

  private func take(_ bytes: UnsafeRawBufferPointer, _ writer: BackupWriter) -> BackupClientError? {
    guard let response = unsafe BackupMessage(bytes) else {
      return .failed("the server has sent what is no piece of a backup")
    }
    if response.file.isEmpty {
      isWhole = true
      return nil
    }
    do throws(JournalError) {
      try writer.write(
        unsafe BackupPiece(file: response.file, offset: response.offset, bytes: response.data))
      return nil
    } catch {
      return .writing(error)
    }
  }

  private func end(_ call: ServiceCallEnd) throws(BackupClientError) {
    guard call.status == .ok else {
      throw call.status == .dataLoss ? .damaged(call.text) : .failed(call.text)
    }
    if !isWhole { throw .failed("the server has not sent all") }
  }
}

/// A BackupResponse.
@safe private struct BackupMessage {
  private(set) var file = ""
  private(set) var offset = 0
  private(set) var data = unsafe UnsafeRawBufferPointer(start: nil, count: 0)

  /// - Safety: good as long as the bytes are.
  @unsafe init?(_ bytes: UnsafeRawBufferPointer) {
    var fields = unsafe WireFields(bytes)
    while let field = fields.next() {
      switch field.number {
      case 1: file = field.text
      case 2:
        guard let value = Int(exactly: field.value) else { return nil }
        offset = value
      case 3: unsafe data = field.bytes
      default: return nil
      }
    }
    if fields.isMalformed { return nil }
  }
}
