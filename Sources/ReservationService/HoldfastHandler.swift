// Every method that the server has, by number, and the way from a message to its answer: decode, check,
// execute, encode.
package import ChangeFeed
package import GRPC
package import StockStore
package import StorePersistence

/// Serves the product's methods on one loop.
@safe package final class HoldfastHandler: CallHandler {
  /// A method's number; the order is that of `methods`.
  enum Method: Int, CaseIterable {
    case reserve, confirm, release, extend, replace, getReservation, listReservations
    case batchReserve, reserveStream
    case adjustStock, getStock, batchGetStock, listStock
    case batchAdjustStock, importStock, removeItem
    case watch
    case backup
    case healthCheck, healthWatch
    case reflection, reflectionAlpha

    var descriptor: MethodDescriptor {
      let reservations = "holdfast.v1.ReservationService"
      let stock = "holdfast.v1.StockService"
      let health = "grpc.health.v1.Health"
      func unary(_ service: String, _ name: String) -> MethodDescriptor {
        MethodDescriptor(service: service, method: name, type: .unary)
      }
      func reflection(_ version: String) -> MethodDescriptor {
        MethodDescriptor(
          service: "grpc.reflection.\(version).ServerReflection", method: "ServerReflectionInfo",
          type: .bidirectional)
      }
      switch self {
      case .reserve:
        return MethodDescriptor(
          service: reservations, method: "Reserve", type: .unary, hasLatencyQuantiles: true)
      case .confirm: return unary(reservations, "Confirm")
      case .release: return unary(reservations, "Release")
      case .extend: return unary(reservations, "Extend")
      case .replace: return unary(reservations, "Replace")
      case .getReservation: return unary(reservations, "GetReservation")
      case .listReservations: return unary(reservations, "ListReservations")
      case .batchReserve:
        return MethodDescriptor(
          service: reservations, method: "BatchReserve", type: .unary, isBatched: true)
      case .reserveStream:
        return MethodDescriptor(
          service: reservations, method: "ReserveStream", type: .bidirectional, isBatched: true)
      case .adjustStock: return unary(stock, "AdjustStock")
      case .batchAdjustStock: return unary(stock, "BatchAdjustStock")
      case .importStock:
        return MethodDescriptor(
          service: stock, method: "ImportStock", type: .clientStreaming, isBatched: true)
      case .getStock: return unary(stock, "GetStock")
      case .batchGetStock: return unary(stock, "BatchGetStock")
      case .listStock: return unary(stock, "ListStock")
      case .removeItem: return unary(stock, "RemoveItem")
      case .watch:
        return MethodDescriptor(
          service: "holdfast.v1.EventService", method: "Watch", type: .serverStreaming)
      case .backup:
        return MethodDescriptor(
          service: "holdfast.v1.BackupService", method: "Backup", type: .serverStreaming)
      case .healthCheck: return unary(health, "Check")
      case .healthWatch:
        return MethodDescriptor(service: health, method: "Watch", type: .serverStreaming)
      case .reflection: return reflection("v1")
      case .reflectionAlpha: return reflection("v1alpha")
      }
    }
  }

  package static let metadata: [StaticString] = ["holdfast-caller", "authorization"]
  package static let methods: [MethodDescriptor] = Method.allCases.map(\.descriptor)
  static let services = Set(methods.map(\.service))
  private static let paths: [[UInt8]] = methods.map { Array($0.path.utf8) }

  let session: StoreSession
  let rules: FieldRules
  let errors = ErrorReplies()
  /// Violations of the call in hand in the entries of a list: what is refused for one is refused for all.
  var badEntries: [FieldViolation] {
    get { unsafe badEntriesMemory.pointee }
    _modify { yield unsafe &badEntriesMemory.pointee }
  }
  // Behind a constant pointer: properties of a class are checked for exclusive access at every use, and
  // every call looks whether there are any.
  private let badEntriesMemory: UnsafeMutablePointer<[FieldViolation]>
  var hasBadEntries: Bool { unsafe !badEntriesMemory.pointee.isEmpty }
  private let health: HealthService
  /// nil: there is nothing to watch.
  let watches: WatchService?
  /// nil: there is nothing to back up.
  let backups: BackupCalls?
  /// Who asks for a backup is nobody in particular, and may be anywhere.
  let backupsNeedTokens: Bool
  private let reflection: ReflectionService
  /// What is known of reserves that come next in a batch.
  let ahead = BatchLookahead()
  let heldTail = HeldTail()
  let imports = ImportsOfCalls()
  private let authorization: Authorization

  /// - Parameters:
  ///   - session: this loop's own.
  ///   - authorization: this loop's own.
  ///   - feed: of the store; nil: it has none.
  ///   - backups: of its directory; nil: it has none.
  ///   - backupsNeedTokens: they are refused, since anybody could take them.
  ///   - wake: wakes the loop, from any thread.
  package init(
    session: StoreSession, storeLimits: StoreLimits, serviceLimits: ServiceLimits,
    authorization: Authorization = Authorization(file: nil), feed: ChangeFeed? = nil,
    backups: BackupStreams? = nil, backupsNeedTokens: Bool = false,
    wake: @escaping @Sendable () -> Void = {}
  ) {
    self.session = session
    unsafe badEntriesMemory = .allocate(capacity: 1)
    unsafe badEntriesMemory.initialize(to: [])
    self.authorization = authorization
    rules = FieldRules(store: storeLimits, service: serviceLimits)
    watches = feed.map { [errors] in WatchService(feed: $0, errors: errors, wake: wake) }
    self.backupsNeedTokens = backupsNeedTokens
    self.backups = backups.map { [errors] in BackupCalls(streams: $0, errors: errors, wake: wake) }
    health = HealthService(services: Self.services, errors: errors)
    reflection = ReflectionService(services: Self.services.sorted())
  }

  deinit {
    unsafe badEntriesMemory.deinitialize(count: 1)
    unsafe badEntriesMemory.deallocate()
  }

  package func method(atPath path: Span<UInt8>) -> Int? { Self.method(atPath: path) }

  static func method(atPath path: Span<UInt8>) -> Int? {
    // Asked only where a connection's header fields change: a search is good enough.
    for (number, candidate) in paths.enumerated() where candidate.count == path.count {
      if candidate.indices.allSatisfy({ candidate[$0] == path[$0] }) { return number }
    }
    return nil
  }

  // MARK: The turn

  package func beginTurn() {
    _ = authorization.refresh()
    _ = session.beginTurn()
  }

  package func endTurn() { session.endTurn() }

  package var hasBacklog: Bool { session.hasBacklog }

  package var durableLSN: UInt64 { session.durableLSN }

  package func deliver(to sink: any CallSink) {
    health.deliver(to: sink)
    watches?.deliver(to: sink)
    backups?.deliver(to: sink)
  }

  package func cancelled(_ call: CallID) {
    health.cancelled(call)
    watches?.cancelled(call)
    backups?.cancelled(call)
    imports.remove(call)
  }

  package func drain() { health.drain() }

  package func resumed(_ call: CallID) {
    watches?.resumed(call)
    backups?.resumed(call)
  }

  package func reject(_ rejection: Rejection, response: Response) {
    errors.reject(rejection, response: response)
  }

  // MARK: Calls

  package var authenticationGeneration: UInt64 {
    _ = authorization.refresh()
    return authorization.generation
  }

  package func start(method: Int, headers: RequestHeaders, response: Response) -> Principal? {
    guard let method = Method(rawValue: method) else { return nil }
    return authorization.principal(
      of: headers, calling: method, now: session.time, errors, response)
  }

  package func renew(_ principal: Principal, method: Int, response: Response) -> Principal? {
    guard let method = Method(rawValue: method) else { return nil }
    do throws(AuthorizationFailure) {
      let renewed = try authorization.renew(principal, calling: method, now: session.time)
      let before = Permissions(rawValue: principal.permissions)
      let after = Permissions(rawValue: renewed.permissions)
      if method == .watch, before.seesCallers != after.seesCallers {
        errors.credentialsChanged(response: response)
        return nil
      }
      return renewed
    } catch {
      errors.unauthorized(error, response: response)
      return nil
    }
  }

  package func expect(_ message: Span<UInt8>, of call: Call) {
    guard let method = Method(rawValue: call.method) else { return }
    // Every encoder writes the fields in their order, and all of these begin with what the command is
    // found by. Other messages go without.
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    guard reader.next() == .bytes(1) else { return }
    let first = reader.bytes()
    // The name lives with the stream.
    let name = unsafe call.caller
    let caller = unsafe BorrowedBytes(name.baseAddress, count: name.count)
    switch method {
    case .reserve: session.expectReserve(IdempotencyScope(caller: caller, key: first))
    case .batchReserve, .reserveStream: ahead.prepare(first, caller, session, rules)
    case .adjustStock: session.expectAdjust(IdempotencyScope(caller: caller, key: first))
    case .replace:
      guard reader.next() == .bytes(2), let id = reservationID(reader.bytes()) else { return }
      session.expectReplace(IdempotencyScope(caller: caller, key: first), id)
    case .confirm, .release, .extend, .getReservation:
      if let id = reservationID(first) { session.expect(id) }
    default: break
    }
  }

  private func reservationID(_ bytes: BorrowedBytes) -> ReservationID? {
    let text = unsafe bytes.pointer.bindMemory(to: UInt8.self)
    return unsafe ReservationID(text: text.span)
  }

  package func describe(
    _ message: Span<UInt8>, method: Int, _ take: (CallSubject, Span<UInt8>) -> Void
  ) {
    guard let method = Method(rawValue: method) else { return }
    // The numbers of the fields in proto/: where the lines or changes are, and the SKU in one of them.
    switch method {
    case .reserve: describe(message, list: 2, take)
    case .replace: describe(message, list: 3, take)
    case .batchAdjustStock: describe(message, list: 2, sku: 2, take)
    case .adjustStock, .removeItem: describe(message, field: 2, .sku, take)
    case .getStock: describe(message, field: 1, .sku, take)
    case .batchGetStock: describe(message, list: 1, take)
    case .confirm, .release, .extend, .getReservation:
      describe(message, field: 1, .reservation, take)
    default: break
    }
  }

  /// The SKU of the first entry of a list.
  private func describe(
    _ message: Span<UInt8>, list: UInt32, sku: UInt32 = 1,
    _ take: (CallSubject, Span<UInt8>) -> Void
  ) {
    describe(message, field: list, .sku) { kind, entry in
      describe(entry, field: sku, kind, take)
    }
  }

  /// The first field of that number.
  private func describe(
    _ message: Span<UInt8>, field: UInt32, _ kind: CallSubject,
    _ take: (CallSubject, Span<UInt8>) -> Void
  ) {
    var reader = unsafe ProtoReader(message.borrowed, refusesUnknown: false)
    while let tag = reader.next() {
      if tag == .bytes(field) {
        let bytes = reader.bytes()
        let found = unsafe bytes.pointer.bindMemory(to: UInt8.self)
        return unsafe take(kind, found.span)
      }
      reader.other(tag, known: field...field)
    }
  }

  package func handle(_ message: Span<UInt8>, of call: Call, response: Response) -> Completion {
    guard let method = Method(rawValue: call.method) else { return .later }
    do throws(FieldViolation) {
      return try execute(method, message, call, response)
    } catch {
      errors.badRequest(error.index == nil ? [error] : badEntries, response: response)
      badEntries.removeAll()
      return .respond(lsn: 0)
    }
  }

  package func halfClosed(_ call: Call, response: Response) -> Completion {
    Method(rawValue: call.method) == .importStock ? endImport(call, response) : .end
  }

  private func execute(
    _ method: Method, _ message: Span<UInt8>, _ call: Call, _ response: Response
  ) throws(FieldViolation) -> Completion {
    switch method {
    case .watch: return try watch(message, call, response)
    case .backup: return backup(message, call, response)
    default: break
    }
    // The name lives with the stream.
    let name = unsafe call.caller
    let caller = unsafe BorrowedBytes(name.baseAddress, count: name.count)
    let requester = Requester(
      caller: caller, ownHoldsOnly: Permissions(rawValue: call.permissions).ownHoldsOnly)
    let before = session.hasLease ? session.lastLSN : 0
    var lsn: UInt64
    switch method {
    case .reserve: lsn = try reserve(message, caller, response)
    case .confirm: lsn = try confirm(message, requester, response)
    case .release: lsn = try release(message, requester, response)
    case .extend: lsn = try extend(message, requester, response)
    case .replace: lsn = try replace(message, requester, response)
    case .getReservation: lsn = try getReservation(message, caller, response)
    case .listReservations: lsn = try listReservations(message, response)
    case .adjustStock: lsn = try adjustStock(message, caller, response)
    case .batchAdjustStock: lsn = try batchAdjustStock(message, caller, response)
    case .getStock: lsn = try getStock(message, response)
    case .batchGetStock: lsn = try batchGetStock(message, response)
    case .listStock: lsn = try listStock(message, response)
    case .removeItem: lsn = try removeItem(message, caller, response)
    // Batches come in parts (BatchCalls.swift).
    case .watch, .backup, .batchReserve, .reserveStream, .importStock: lsn = 0
    case .healthCheck:
      health.check(message, response)
      lsn = 0
    case .healthWatch:
      health.watch(message, call.id, response)
      lsn = 0
    case .reflection, .reflectionAlpha:
      let isAnswered = reflection.answer(message, response: response)
      lsn = isAnswered ? 0 : malformed(response)
    }
    if session.hasLease, !isHealth(method) { lsn = leased(lsn, since: before, response) }
    session.await(lsn: lsn)
    return .respond(lsn: lsn)
  }

  private func isHealth(_ method: Method) -> Bool {
    switch method {
    case .healthCheck, .healthWatch, .reflection, .reflectionAlpha: true
    default: false
    }
  }

  /// An answer of the owner of a log that others may take. One that waits for a record which is newer than the call
  /// is shown when that is in the log, and then nobody else had taken it. Any other holds while the lease is live
  /// now that it was made.
  /// - Parameter before: the log's end when the call came.
  /// - Returns: what the answer waits for.
  func leased(_ lsn: UInt64, since before: UInt64, _ response: Response) -> UInt64 {
    if lsn > before || session.isLeaseLive { return lsn }
    errors.leaseOver(response: response)
    return 0
  }

  /// Answers a message that does not follow its .proto; 0, since nothing was decided.
  func malformed(_ response: Response) -> UInt64 {
    errors.malformed(response: response)
    return 0
  }

  /// Answers a message that was not read whole; 0, since nothing was decided.
  @inline(never)
  func refuse(_ reader: ProtoReader, _ response: Response) -> UInt64 {
    badEntries.removeAll()
    guard let unknown = reader.unknownField else { return malformed(response) }
    errors.unknownField(unknown, response: response)
    return 0
  }
}

extension Span<UInt8> {
  /// The bytes as the store takes them.
  /// - Safety: whoever uses them must be done before the span's owner is.
  @unsafe var borrowed: BorrowedBytes {
    unsafe withUnsafeBufferPointer { unsafe BorrowedBytes($0.baseAddress, count: $0.count) }
  }
}
