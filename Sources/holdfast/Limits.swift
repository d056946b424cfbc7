// Every limit of the server, named once, with its reason. Modules take their limits
// as values and have none of their own, but for the sizes of their buffers.
internal import Access
internal import Admin
internal import ChangeFeed
internal import HTTP2
internal import Log
internal import Posix
internal import PostgresLog
internal import ReservationService
internal import Server
internal import StockStore

enum Limits {
  // MARK: Messages

  /// A cart is a few lines; 64 bounds the write set that one commit locks, and so its time.
  static let linesPerReservation = 64
  /// 2^40 units: 64 lines of it add up without overflow, and no shop has more.
  static let quantityMax: Int64 = 1 << 40
  /// A UUID has 36; room for a prefix. Keys are hashed on every call.
  static let keyBytesMax = 64
  /// Names stand in every item record: 22 bytes fit inline, the rest is kept aside.
  static let skuBytesMax = 64
  static let locationBytesMax = 64
  /// Hashed with every key.
  static let callerBytesMax = 64
  /// A sentence for the audit.
  static let reasonBytesMax = 256
  /// An answer of 500 levels is some 50 KiB, and 0.1 ms of a loop's time; pages also end at 1 MiB.
  static let batchMax = 500
  static let pageSizeDefault = 100
  /// Every request within the limits fits: 128 lines with the longest names are 18 KiB, a BatchGetStock
  /// of 500 items 66 KiB.
  static let messageBytesMax = 80 * 1024
  /// Reserves in one message of BatchReserve and ReserveStream. Larger batches save nothing measurable, and
  /// their results stay below the 4 MiB that gRPC's clients take.
  static let reservesPerMessageMax = 8_192
  /// 8,192 reserves of a line with a UUID as key are 500 KiB.
  static let batchMessageBytesMax = 1024 * 1024

  // MARK: Time

  static let second: Int64 = 1_000_000_000
  /// Shorter than a second is no time to pay in; the expiry wheel has one-second slots.
  static let ttlNanosecondsMin = second
  /// The time that a checkout page gives.
  static let ttlNanosecondsDefault = 600 * second
  static let holdNanosecondsMax = 24 * 3600 * second
  /// Clients retry for hours, not for days.
  static let retentionNanoseconds = 24 * 3600 * second

  /// No server is down for a day unless somebody means it, and then knows. A clock that is wrong by less
  /// costs what such an outage would: holds that fell due end, and decisions whose retention ends within
  /// the jump are forgotten. Both are in the warning.
  static let clockJumpMaxNanoseconds = 24 * 3600 * second
  /// A server without calls notes the time as often: a record of 40 bytes, so that the next start can
  /// tell an outage from a clock that is wrong.
  static let timeNotedNanoseconds = 60 * second
  static let clockWatchedNanoseconds = second
  /// A server that is too small for its load says so six times an hour.
  static let retentionToldNanoseconds = 600 * second

  // MARK: Tables

  /// 110 bytes each: 1.8 GiB when full.
  static let itemsMax = 1 << 24
  /// 160 bytes each: 2.7 GiB when full.
  static let reservationsMax = 1 << 24
  /// 56 bytes each: 1.9 GiB when full. What was bought under a limit counts for good.
  static let subjectEntriesMax = 1 << 24

  /// Holds that are due, or soon will be, that a turn works on before its calls: half a millisecond.
  static let expiriesPerTurn = 1000

  // MARK: Journal

  /// Half a million reserves: a new segment every second or two at the most that this server takes, so
  /// that changing over costs nothing; small enough that spare ones do not hurt.
  static let journalSegmentBytes = 64 * 1024 * 1024
  /// For tests: at the lower end there is still room for every loop's decisions, at the upper one the
  /// zero-filling of a spare segment still ends in time.
  static let journalSegmentBytesAllowed = (256 * 1024)...(1024 * 1024 * 1024)
  /// An eighth of a segment is kept free in memory for one record of 6,528 bytes of every loop, and of the start.
  static let journalSegmentBytesPerLoop = 51 * 1024
  /// Decisions that wait for the disk: half a second of them at 500,000 reserves/s. Behind a disk that
  /// stalls for longer, changes had better be refused than queue up.
  static let journalRingBytesMax = 32 * 1024 * 1024
  /// One write and one sync. Beyond that the bytes cost, not the sync, and more would only wait longer.
  static let journalGroupBytesMax = 1024 * 1024
  /// The one that comes next, and one while that is made which comes after.
  static let journalSpareSegments = 2
  /// 512 MiB of journal start a checkpoint: a start reads that in two seconds. Two checkpoints are kept, with the
  /// journal since the older, so that one may be harmed: the disk holds three times that at most, beside three
  /// checkpoints.
  static let journalCheckpointSegments = 8

  // MARK: The engine

  /// What PostgreSQL and its standbys take at once without a rise in latency: measured, 64 to 256 KiB.
  static let engineGroupBytesMax = 256 * 1024
  /// How often a standby looks for what is new: a twentieth of a takeover.
  static let engineFollowedNanoseconds = second / 20
  /// How often an owner looks whether it is asked to hand over.
  static let engineWatchedNanoseconds = second / 4
  /// How often checkpoints are looked for, to be put into the engine or copied from there.
  static let checkpointsCarriedNanoseconds = 5 * second
  /// How often a standby says that it is there.
  static let memberToldNanoseconds = 2 * second
  /// A standby that was silent for so long is not counted on.
  static let memberSecondsMax = 10.0
  /// When a standby becomes the owner, for calls that are just being refused.
  static let standbyShutdownNanosecondsMax = second / 2
  /// The owner's lease ends by so much of it earlier than others take it: no two clocks drift apart so fast.
  static let leaseMarginPart: Int64 = 5

  static func engine(_ settings: Settings) -> PostgresLog.Options {
    var options = PostgresLog.Options()
    options.leaseNanoseconds = settings.leaseNanoseconds
    options.marginNanoseconds = settings.leaseNanoseconds / leaseMarginPart
    return options
  }

  // MARK: Watch

  static let feed = FeedLimits(
    // Dozens of services that each have a few processes; more read from a queue that one of them fills.
    watchesMax: 1_000,
    // A thousand reserves and more: decoded in a millisecond, and then others have their turn.
    blockBytes: 256 * 1024,
    // Of clients that stopped reading: what is beyond it is read again when they go on.
    retainedBytesMax: 64 * 1024 * 1024)
  /// What is decided in minutes at thousands of decisions a second, so that a consumer may be restarted.
  static let historyBytes = 64 * 1024 * 1024
  /// Decisions that no thread has moved to that history yet: more than come while it has not the CPU. Small, so
  /// that it stays in the processor's caches.
  static let memoryRingBytes = 4 * 1024 * 1024
  /// A consumer that starts again within it goes on where it was, in memory too, where writing down what
  /// nobody reads costs a tenth of a call and more.
  static let keepNanoseconds: Int64 = 60_000_000_000
  /// More than any disk that a directory is on; no number of segments overflows.
  static let historyBytesMax = 1 << 50

  // MARK: Backups

  /// On their way at once, over the network: each has a thread and reads the disk as fast as its client takes it.
  static let backupsMax = 2
  /// Without anything from the server for so long a backup is given up.
  static let backupSilenceNanoseconds = 60 * second

  // MARK: Archive

  /// Of segments that an archive does not take: hours of it at the most that a shop decides, so that somebody may
  /// see to it. Beyond it the oldest are given up, rather than the disk.
  static let unarchivedBytesMax = 16 * 1024 * 1024 * 1024
  /// What a disk that breaks takes with it of the archived end. At 64 MiB a minute the archive's disk is idle.
  static let archiveTailNanoseconds = 60 * second
  /// For the last segment at an orderly stop, within what orchestrators give.
  static let archiveFinishNanoseconds = 10 * second
  /// An archive that fails says so at first and then now and then.
  static let archiveToldNanoseconds = 60 * second

  // MARK: Access

  /// One entry for each service and its successor, at the largest shops a few hundred. 10,000 take 2 MiB,
  /// and are read in a tenth of a second.
  static let access = AccessLimits(
    entriesMax: 10_000,
    // 10,000 entries of 400 bytes, notes and comments included.
    fileBytesMax: 4 * 1024 * 1024,
    // What other servers take of a header field; signed tokens of other systems have some 2 KiB.
    tokenBytesMax: 8 * 1024)
  /// Until a revoked token is refused, and a new certificate shown. A look is one stat(2) for each file.
  static let filesWatchedNanoseconds = second
  /// A client that tries again and again must not fill the log.
  static let noticeNanoseconds = 10 * second

  // MARK: Watching the disk

  /// A disk that fills in an hour gives two seconds' warning for every megabyte; one look is two statvfs(2).
  static let diskWatchedNanoseconds = second / 4
  /// Longer than any disk that works takes for a sync: a person should hear of it.
  static let stallToldNanoseconds = second

  // MARK: Loops and connections

  /// One store and one journal serve them all; no machine has shown a use for more.
  static let loopsMax = 128
  /// Without connections: the standard streams, the journal's files and the two that a checkpoint takes, the
  /// admin port and the console's look-ups, threads that sleep, the archive, and what the runtime keeps; and of each loop its poller, its listener and
  /// its wake-up.
  static func descriptorsNeeded(loops: Int) -> Int { 60 + 4 * loops }
  /// For listeners, the admin pages' connections, those that were evicted, and the journal's files.
  static let descriptorsKept = 320
  /// Idle connections that were told to go, for a new one's sake: each lingers for as long as its peer takes to
  /// close, a second at most, so that a call on its way is not lost. They have descriptors of those kept.
  static let evictedConnectionsMax = 64
  /// Two descriptors' worth of the usual hard limit of 65,536 stay free.
  static let connectionsMax = 20_000
  /// What the load tests reach for; 1,024 records of 0.5 KiB bound a connection at 0.5 MiB.
  static let concurrentStreams = 1_024
  /// grpc-go and C-core refuse more than 16 KiB themselves.
  static let headerListBytesMax = 16 * 1024
  /// A call with a megabyte of metadata is told that it is too much, and the connection's other calls go
  /// on. Such a block is charged as 64 resets.
  static let headerBlockBytesMax = 1024 * 1024
  /// A bearer token of 8 KiB, as issuers of JSON Web Tokens make them, and the fields of all a client's
  /// methods: with it in the table, a call's header block is some ten bytes. Taken as the client fills it.
  static let headerTableBytes = 16 * 1024
  /// Unread answers of a connection; beyond it the peer is not read any more.
  static let unsentBytesMax = 4 * 1024 * 1024
  /// Bodies and responses that outgrew their records, of all loops together: 3,000 of the largest messages.
  /// Each loop has its share. A connection holds half of what is free of its loop's at most.
  static let bufferedBytesMax = 256 * 1024 * 1024
  /// With more than 16 loops they may keep more together: a page of a list takes 1 MiB, and has to find room
  /// beside others.
  static let bufferedBytesPerLoopMin = 16 * 1024 * 1024
  /// Responses of one call that its client has not taken: beyond it, whoever makes them waits.
  static let streamQueuedBytesMax = 256 * 1024
  /// Streaming calls stay open for as long as a client likes. One that watches and reflects has a few; a
  /// proxy with many users on one connection opens more connections. 10,000 a loop are 5 MiB of records.
  static let streamingCallsPerConnectionMax = 100
  static let streamingCallsMax = 10_000
  /// Large enough that no client waits for a window on a fast network.
  static let connectionWindowBytes: Int32 = 16 * 1024 * 1024
  /// Credit comes back once a message is done, so that the longest one must fit, with its prefix and padding.
  static let streamWindowBytes: Int32 = Int32(batchMessageBytesMax) + 64 * 1024
  /// A client sends its preface with its first packet.
  static let handshakeNanosecondsMax = 10 * second
  /// 80 KiB at modem speed.
  static let requestNanosecondsMax = 30 * second
  /// A peer that neither reads nor gives credit for as long has stopped listening.
  static let stallTimeoutNanoseconds = 60 * second
  static let keepaliveSeconds: Int32 = 60
  /// What orchestrators give before they kill (Kubernetes: 30 s), less a margin.
  static let shutdownNanosecondsMax = 10 * second
  /// What a disk that works needs for the last decisions, however late the last connection has ended.
  static let closingNanosecondsMin = second
  /// What an end takes beyond the shutdown's time, at the most: then a service manager may kill.
  static let endingNanoseconds = 5 * second
  /// How often a health check looks whether its answer has come, in milliseconds.
  static let healthPollMilliseconds: Int32 = 100

  // MARK: The admin port

  static let admin = AdminLimits(
    // Probes, scrapers and some people need a dozen. More make it less likely that a flood evicts a
    // probe between its SYN and its request.
    connectionsMax: 128,
    // Browsers send 1 KiB, and a token may have most of the rest.
    headBytesMax: 16 * 1024,
    // A head comes in one packet or two; probes give up after a second or a few.
    headNanosecondsMax: 5 * second,
    // Scrapers come every 15 to 60 seconds, and need no new handshake.
    idleNanosecondsMax: 90 * second,
    // The largest page has some 100 KiB.
    sendNanosecondsMax: 10 * second,
    // A round trip to anywhere, and a request's body in flight.
    lingerNanosecondsMax: second, lingerBytesMax: 256 * 1024,
    stopNanosecondsMax: second)

  static let console = ConsoleLimits(
    // A team's screens. Each takes 10 KiB a second, and one of the port's connections.
    subscribersMax: 32,
    sessionsMax: 64,
    // A shift.
    sessionNanosecondsMax: 8 * 3600 * second,
    lookupsMax: 8,
    // All that wait, one after the other.
    lookupNanosecondsMax: 30 * second,
    // Proxies give up after a minute.
    heartbeatNanoseconds: 15 * second,
    // The longest token, each byte of it as three.
    formBytesMax: 3 * access.tokenBytesMax + 1024)
  /// Between two states that are published: a state costs a millisecond or two.
  static let consolePauseNanoseconds = second / 10
  /// Two milliseconds of a processor, two in a thousand; ten million items take eight minutes.
  static let itemsSweptPerSecond = 20_000
  /// An operator's look at what became of an item or a reservation. The newest segments come first; a disk reads as
  /// much in a second, and half of it is what was asked for.
  static let history = HistoryLimits(
    bytesMax: 256 * 1024 * 1024, nanosecondsMax: 2 * second, entriesMax: 100)

  // MARK: Abuse budgets, per connection

  /// Clients with deadlines cancel calls: a tenth of 100,000 calls/s, and all that are open when the server
  /// was slow for a moment. A stream that is opened and reset costs what a call does, 1 to 2 µs: the call
  /// may have been executed, and of one that was not, header block and record were worked on. So one
  /// connection gets a 50th of a core out of it at most. Each reset counts once: the peer's, and those of
  /// ours that the peer provoked.
  static let resets = Budget(burst: 20_000, perSecond: 10_000)
  /// gRPC clients probe bandwidth with a PING per round trip while data flows.
  static let pings = Budget(burst: 10_000, perSecond: 5_000)
  /// Clients send one at the start and one when they retune their windows.
  static let settings = Budget(burst: 200, perSecond: 20)
  /// No client has a use for empty frames; some old ones send a few PRIORITY frames at the start.
  static let emptyFrames = Budget(burst: 1_000, perSecond: 100)
  /// A round trip's worth of frames of streams that we reset is on its way: a call's body may be 64 DATA
  /// frames, and behind a proxy a thousand calls may share the connection. A client that listens then
  /// stops. Each costs us as little as a frame of an open stream does.
  static let lateFrames = Budget(burst: 100_000, perSecond: 20_000)
  /// What a client sends of a call that is rejected early is read to its end, where that is near: gRPC's own
  /// default is 4 MiB a message, in the time that a request has. A connection gets 1 GiB read so, and 320 MiB
  /// in each second, as late frames; what is more is reset. It costs no memory, and a byte no more than one
  /// of any other request.
  static let drain = DrainLimits(
    streamsMax: 128, streamBytesMax: 4 * 1024 * 1024 + 64 * 1024,
    nanosecondsMax: requestNanosecondsMax, kibibytes: Budget(burst: 1_048_576, perSecond: 327_680))

  // MARK: As the modules take them

  /// `--history` without a disk: a power of two, and room for a block of the feed and what comes meanwhile.
  /// nil: nobody can watch.
  static func memoryHistory(_ settings: Settings) -> Int? {
    let bytes = settings.historyBytes ?? historyBytes
    guard bytes > 0 else { return nil }
    let wanted = min(max(bytes, 1 << 20), 1 << 40)
    return 1 << (Int.bitWidth - (wanted - 1).leadingZeroBitCount)
  }

  static func store(_ settings: Settings) -> StoreLimits {
    StoreLimits(
      linesPerReservation: linesPerReservation, quantityMax: quantityMax,
      ttlNanosecondsMin: ttlNanosecondsMin,
      ttlNanosecondsDefault: settings.defaultTTLNanoseconds,
      holdNanosecondsMax: settings.maxHoldNanoseconds,
      retentionNanoseconds: settings.retentionNanoseconds, itemsMax: settings.maxItems,
      reservationsMax: settings.maxReservations, expiriesPerTurn: expiriesPerTurn,
      subjectEntriesMax: settings.maxLimits)
  }

  static func journal(_ settings: Settings, _ durability: Durability) -> JournalOptions {
    // What waits in memory always fits the segment that comes next.
    let half = settings.journalSegmentBytes / 2
    let ringBytes = min(journalRingBytesMax, 1 << (Int.bitWidth - 1 - half.leadingZeroBitCount))
    var options = JournalOptions(
      durability: durability, segmentBytes: settings.journalSegmentBytes, ringBytes: ringBytes,
      groupBytesMax: min(journalGroupBytesMax, ringBytes), spareSegments: journalSpareSegments,
      checkpointSegments: journalCheckpointSegments)
    if durability == .quorum { options.groupBytesMax = min(engineGroupBytesMax, ringBytes) }
    options.unarchivedBytesMax = unarchivedBytesMax
    options.archiveTailNanoseconds = archiveTailNanoseconds
    options.historyBytes = settings.historyBytes ?? historyBytes
    if let bytes = Machine.raiseFileSizeLimit() { options.fileBytesMax = bytes }
    return options
  }

  static let service = ServiceLimits(
    keyBytesMax: keyBytesMax, skuBytesMax: skuBytesMax, locationBytesMax: locationBytesMax,
    reasonBytesMax: reasonBytesMax, callerBytesMax: callerBytesMax, batchMax: batchMax,
    pageSizeDefault: pageSizeDefault, reservesPerMessageMax: reservesPerMessageMax)

  static func server(_ settings: Settings) -> ServerLimits {
    var limits = ServerLimits(
      http2: HTTP2Limits(
        concurrentStreams: concurrentStreams, headerListBytesMax: headerListBytesMax,
        headerBlockBytesMax: headerBlockBytesMax, headerTableBytes: headerTableBytes,
        bufferedBytesMax: bufferedBytesMax,
        connectionWindowBytes: connectionWindowBytes, streamWindowBytes: streamWindowBytes,
        resets: resets, pings: pings, settings: Self.settings, emptyFrames: emptyFrames,
        lateFrames: lateFrames, drain: drain),
      messageBytesMax: messageBytesMax, connectionsMax: settings.maxConnections,
      unsentBytesMax: unsentBytesMax,
      handshakeNanosecondsMax: settings.handshakeTimeoutNanoseconds,
      requestNanosecondsMax: requestNanosecondsMax,
      stalledWriteNanosecondsMax: settings.stallTimeoutNanoseconds,
      keepaliveSeconds: keepaliveSeconds,
      shutdownNanosecondsMax: settings.shutdownTimeoutNanoseconds,
      streamQueuedBytesMax: streamQueuedBytesMax,
      streamingCallsPerConnectionMax: streamingCallsPerConnectionMax,
      streamingCallsMax: streamingCallsMax)
    limits.evictedConnectionsMax = evictedConnectionsMax
    limits.batchMessageBytesMax = batchMessageBytesMax
    limits.bufferedBytesPerLoopMin = bufferedBytesPerLoopMin
    limits.connectionPolicy = connectionPolicy(settings)
    return limits
  }

  private static func connectionPolicy(_ settings: Settings) -> ConnectionPolicy {
    var policy = ConnectionPolicy()
    // Half: one address cannot take all, and behind a proxy elsewhere half is still 10,000. A proxy on
    // this machine is every client at once, so it is only counted where a number was asked for.
    policy.perPeerMax = settings.maxConnectionsPerPeer ?? max(1, settings.maxConnections / 2)
    policy.readsProxyHeaders = settings.proxyProtocol
    policy.exemptsLoopback = settings.maxConnectionsPerPeer == nil
    policy.ageNanoseconds = settings.maxConnectionAgeNanoseconds
    policy.ageGraceNanoseconds = settings.maxConnectionAgeGraceNanoseconds
    policy.idleNanoseconds = settings.maxConnectionIdleNanoseconds
    policy.keepaliveNanoseconds = settings.keepaliveTimeNanoseconds
    policy.keepaliveTimeoutNanoseconds = settings.keepaliveTimeoutNanoseconds
    return policy
  }
}
