// holdfast.v1.BackupService on one loop: which backups are on their way. Reads nothing itself: pieces come from
// the streams' threads, and the next is asked for when one was taken.
internal import Bytes
internal import GRPC
internal import Log
internal import StorePersistence

final class BackupCalls {
  private struct Backup {
    let stream: BackupStream
    /// The client does not read; `resumed` says when it does.
    var isFull = false
    /// Not sent yet, since the client does not read.
    var waiting: BackupDelivery?
  }

  private let streams: BackupStreams
  private let errors: ErrorReplies
  private let wake: @Sendable () -> Void
  private var backups: [CallID: Backup] = [:]

  init(streams: BackupStreams, errors: ErrorReplies, wake: @escaping @Sendable () -> Void) {
    self.streams = streams
    self.errors = errors
    self.wake = wake
  }

  /// Begins a backup; false where there are too many.
  func begin(_ call: CallID) -> Bool {
    guard let stream = streams.begin(wake: wake) else { return false }
    backups[call] = Backup(stream: stream)
    stream.request()
    return true
  }

  func cancelled(_ call: CallID) {
    // Asked of every call that is cut short, nearly never with backups about.
    if !backups.isEmpty { remove(call) }
  }

  func resumed(_ call: CallID) {
    if backups[call] == nil { return }
    backups[call]?.isFull = false
    wake()
  }

  private func remove(_ call: CallID) {
    backups.removeValue(forKey: call)?.stream.cancel()
  }

  /// Once an iteration.
  func deliver(to sink: any CallSink) {
    if backups.isEmpty { return }
    for (call, backup) in backups where !backup.isFull {
      guard let delivery = backup.waiting ?? backup.stream.take() else { continue }
      backups[call]?.waiting = nil
      send(delivery, call, sink)
    }
  }

  private func send(_ delivery: BackupDelivery, _ call: CallID, _ sink: any CallSink) {
    switch delivery {
    case .piece(let file, let offset, let bytes):
      let result = sink.respond(to: call, lsn: 0, ends: false) { response in
        response.message.field(1, Array(file.utf8).span)
        response.message.field(2, UInt64(clamping: offset))
        response.message.field(3, bytes.span)
      }
      switch result {
      case .taken: backups[call]?.stream.request()
      case .full:
        backups[call]?.isFull = true
        backups[call]?.waiting = delivery
      case .gone: remove(call)
      }
    case .end:
      if sink.respond(to: call, lsn: 0, ends: true, { _ in }) == .full {
        backups[call]?.isFull = true
        backups[call]?.waiting = delivery
      } else {
        remove(call)
      }
    case .failed(let error):
      _ = sink.respond(to: call, lsn: 0, ends: true) { errors.backupFailed(error, response: $0) }
      remove(call)
    }
  }
}

extension HoldfastHandler {
  func backup(_ message: Span<UInt8>, _ call: Call, _ response: Response) -> Completion {
    // What a newer client asks for besides may be less than all.
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: true)
    while let tag = reader.next() { reader.other(tag, known: 0...0) }
    guard reader.isWhole else { return .respond(lsn: refuse(reader, response)) }
    guard let backups else {
      errors.noJournal(response: response)
      return .respond(lsn: 0)
    }
    if backupsNeedTokens {
      errors.backupNeedsTokens(response: response)
      return .respond(lsn: 0)
    }
    guard backups.begin(call.id) else {
      errors.tooManyBackups(response: response)
      return .respond(lsn: 0)
    }
    return .later
  }
}
