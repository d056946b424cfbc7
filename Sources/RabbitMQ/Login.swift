// Making a connection to RabbitMQ: address, TLS, credentials, virtual host, channel.
internal import CRabbitMQ
package import Messaging
internal import Posix

extension RabbitMQConnection {
  /// From the first packet to the channel.
  private static let connectNanoseconds: Int64 = 10_000_000_000
  /// An address of several that does not answer.
  private static let addressNanoseconds: Int64 = 4_000_000_000
  /// The most between signs of life: a dead peer is noticed after twice as long.
  private static let heartbeatSeconds: UInt16 = 10
  /// AMQP 0-9-1, section 4.2.3: every peer takes frames of so many bytes.
  private static let frameBytesMin: UInt32 = 4096
  /// One for messages, and one to look whether queues are there.
  private static let channelsMax: UInt16 = 8

  /// Connects and logs in, and opens a channel with confirms. Takes at most some 10 s.
  /// - Parameter access: to a broker by AMQP.
  package static func connect(
    _ access: BrokerAccess
  ) throws(BrokerError) -> RabbitMQConnection {
    guard case .amqp(let address) = access.address else {
      throw .unsuitable("\(access.address) is no address of a RabbitMQ")
    }
    guard access.properties.isEmpty else {
      throw .unsuitable("RabbitMQ's connections have no properties to set")
    }
    let hosts: [String]
    do throws(HostName.Unknown) { hosts = try HostName.addresses(address.host) } catch {
      throw .away("\(error)")
    }
    return try connect(access, address, at: hosts)
  }

  /// - Parameter hosts: the address's, as IP has them. One that takes the connection and says nothing leaves the others time.
  static func connect(
    _ access: BrokerAccess, _ address: AMQPAddress, at hosts: [String]
  ) throws(BrokerError) -> RabbitMQConnection {
    let tls = address.isTLS ? try context(access) : nil
    let end = SystemClock.monotonicNanoseconds() + connectNanoseconds
    var failure = BrokerError.away("no address")
    for (index, host) in hosts.enumerated() {
      let share = SystemClock.monotonicNanoseconds() + addressNanoseconds
      let deadline = index == hosts.count - 1 ? end : min(share, end)
      do throws(BrokerError) {
        let link = try Link(
          address: host, port: address.port, name: address.host, tls: tls, deadline: deadline)
        let connection = RabbitMQConnection(link: link, program: access.program)
        try connection.logIn(address, access, by: deadline)
        return connection
      } catch {
        failure = error
        // Another address would say the same.
        if case .unsuitable = error { break }
      }
    }
    throw failure
  }

  private static func context(_ access: BrokerAccess) throws(BrokerError) -> TLSClientContext {
    var files: TLSFiles?
    if let certificate = access.certificateFile, let key = access.keyFile {
      files = TLSFiles(certificate: certificate, key: key)
    }
    do throws(TLSFileError) {
      return try TLSClientContext(
        authority: access.authorityFile, files: files, offersHTTP2: false)
    } catch {
      throw .unsuitable("\(error)")
    }
  }

  private func logIn(
    _ address: AMQPAddress, _ access: BrokerAccess, by deadline: Int64
  ) throws(BrokerError) {
    try guarded { () throws(BrokerError) in
      link.output.append(contentsOf: "AMQP\u{0}\u{0}\u{9}\u{1}".utf8)
      question = "logging in as '\(plainWords(address.user))'"
      defer { question = nil }
      guard case .start(let mechanisms) = try reply(by: deadline) else {
        throw .fault("no connection.start")
      }
      try answerStart(mechanisms, address, access)
      try tune(try reply(by: deadline))
      question = "virtual host '\(plainWords(address.virtualHost))'"
      let vhost = address.virtualHost
      try unsafe send(AMQP_CONNECTION_OPEN_METHOD, channel: 0) { texts in
        unsafe amqp_connection_open_t(
          virtual_host: texts(vhost), capabilities: texts(""), insist: 0)
      }
      guard case .openOK = try reply(by: deadline) else { throw .fault("no connection.open-ok") }
      try openChannel(channel, by: deadline)
      try send(AMQP_CONFIRM_SELECT_METHOD) { _ in amqp_confirm_select_t(nowait: 0) }
      guard case .confirmSelectOK = try reply(by: deadline) else {
        throw .fault("no confirm.select-ok")
      }
    }
  }

  private func answerStart(
    _ mechanisms: String, _ address: AMQPAddress, _ access: BrokerAccess
  ) throws(BrokerError) {
    let offered = mechanisms.split(separator: " ")
    var password = access.password ?? address.password
    if password == nil, address.user == "guest" { password = "guest" }
    let isByCertificate =
      password == nil && access.certificateFile != nil && offered.contains("EXTERNAL")
    guard isByCertificate || offered.contains("PLAIN") else {
      throw .unsuitable(
        "the broker wants another login than by password: \(plainWords(mechanisms))")
    }
    let response =
      isByCertificate ? [] : [0] + Array(address.user.utf8) + [0] + Array((password ?? "").utf8)
    let capabilities = [
      "authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify",
      "publisher_confirms",
    ]
    let parts = access.program.split(separator: "/", maxSplits: 1)
    try unsafe send(AMQP_CONNECTION_START_OK_METHOD, channel: 0) { texts in
      unsafe amqp_connection_start_ok_t(
        client_properties: texts.table([
          ("product", .text(String(parts.first ?? ""))),
          ("version", .text(parts.count > 1 ? String(parts[1]) : "")),
          ("connection_name", .text("\(access.program) \(HostName.own) \(Machine.processID)")),
          ("capabilities", .table(capabilities.map { ($0, .flag(true)) })),
        ]), mechanism: texts(isByCertificate ? "EXTERNAL" : "PLAIN"),
        response: texts.long(response), locale: texts("en_US"))
    }
  }

  private func tune(_ method: ServerMethod) throws(BrokerError) {
    if case .secure = method {
      throw .unsuitable("the broker wants another login than by password")
    }
    guard case .tune(let channels, let frameBytes, let heartbeat) = method else {
      throw .fault("no connection.tune")
    }
    // 0: the broker has no limit of its own.
    let largest = UInt32(Link.frameBytesMax)
    let frames = frameBytes == 0 ? largest : min(largest, frameBytes)
    guard frames >= Self.frameBytesMin else { throw .fault("frames of \(frameBytes) bytes") }
    let seconds = heartbeat == 0 ? Self.heartbeatSeconds : min(Self.heartbeatSeconds, heartbeat)
    try send(AMQP_CONNECTION_TUNE_OK_METHOD, channel: 0) { _ in
      amqp_connection_tune_ok_t(
        channel_max: channels == 0 ? Self.channelsMax : min(Self.channelsMax, channels),
        frame_max: frames, heartbeat: seconds)
    }
    frameBytesMax = Int(frames)
    hasSecondChannel = channels != 1
    link.beginHeartbeats(seconds: seconds)
  }

  /// - Parameter deadline: of the monotonic clock.
  func openChannel(_ channel: UInt16, by deadline: Int64) throws(BrokerError) {
    try unsafe send(AMQP_CHANNEL_OPEN_METHOD, channel: channel) { texts in
      unsafe amqp_channel_open_t(out_of_band: texts(""))
    }
    guard case .channelOpenOK = try reply(by: deadline) else { throw .fault("no channel.open-ok") }
  }

  /// Appends a method to what is to be sent.
  func send<Method>(
    _ number: amqp_method_number_t, channel: UInt16? = nil, _ make: (CTexts) -> Method
  ) throws(BrokerError) {
    let isShort = codec.append(number, channel: channel ?? self.channel, to: &link.output, make)
    guard isShort else {
      throw .unsuitable("\(question ?? "a name"): longer than AMQP has room for")
    }
  }
}
