// Properties, what the log passes on, and what errors mean.
import CKafkaMock
import Messaging
import Synchronization
import Testing

@testable import Kafka

@Suite(OwnThreads())
struct SettingsTests {
  private func access(
    _ address: String = "kafka://localhost:1", _ properties: [(name: String, value: String)] = []
  ) throws -> BrokerAccess {
    var access = BrokerAccess(try #require(BrokerAddress(address)), program: "test/1")
    access.properties = properties
    return access
  }

  @Test(arguments: [
    ("enable.idempotence", "false"), ("enable.gapless.guarantee", "false"), ("acks", "1"),
    ("request.required.acks", "0"), ("message.timeout.ms", "1000"), ("delivery.timeout.ms", "1000"),
    ("max.in.flight", "6"), ("max.in.flight.requests.per.connection", "1000"),
    ("queuing.strategy", "lifo"), ("partitioner", "random"), ("transactional.id", "a"),
    ("queue.buffering.max.messages", "10"), ("enable.auto.commit", "true"),
    ("enable.auto.offset.store", "true"), ("auto.offset.reset", "latest"), ("group.id", "a"),
    ("bootstrap.servers", "elsewhere:9092"), ("security.protocol", "plaintext"),
    ("sasl.password", "secret"), ("ssl.ca.location", "/x"), ("test.mock.num.brokers", "3"),
  ])
  func refusesWhatWouldCostAMessageOrTheOrder(_ name: String, _ value: String) throws {
    for make in [KafkaSettings.producer, { try KafkaSettings.consumer($0, group: "g") }] {
      do {
        _ = try make(access("kafka://localhost:1", [(name, value)]))
        Issue.record("\(name)=\(value) was taken")
      } catch BrokerError.unsuitable(let text) {
        #expect(text.hasPrefix("the property \(name) cannot be set so: "))
        #expect(!text.contains("secret"))
      }
    }
  }

  @Test(arguments: [
    ("acks", "all"), ("acks", "-1"), ("enable.idempotence", "true"), ("max.in.flight", "1"),
    ("linger.ms", "20"), ("compression.type", "lz4"), ("session.timeout.ms", "6000"),
    ("auto.offset.reset", "error"), ("message.max.bytes", "2000000"),
  ])
  func takesTheRest(_ name: String, _ value: String) throws {
    let access = try access("kafka://localhost:1", [(name, value)])
    for settings in [
      try KafkaSettings.producer(access),
      try KafkaSettings.consumer(access, group: "g"),
    ] {
      #expect(settings.properties.last.map { $0 == (name, value) } == true)
      unsafe rd_kafka_conf_destroy(try settings.configuration())
    }
  }

  @Test(arguments: [
    ("no.such.property", "1", "No such configuration property: \"no.such.property\""),
    ("linger.ms", "soon", "Invalid value"), ("compression.type", "brotli", "Invalid value"),
  ])
  func saysWhatTheLibrarySaysOfAProperty(_ name: String, _ value: String, _ words: String) throws {
    do {
      _ = try KafkaConnection.connect(access("kafka://localhost:1", [(name, value)]))
      Issue.record("\(name)=\(value) was taken")
    } catch BrokerError.unsuitable(let text) { #expect(text.contains(words)) }
  }

  @Test(
    arguments: [
      ("kafka://a:1", [], "PLAINTEXT", nil), ("kafkas://a:1", [], "SSL", nil),
      ("kafka://me:pw@a:1", [], "SASL_PLAINTEXT", "PLAIN"),
      ("kafkas://me:pw@a:1", [], "SASL_SSL", "PLAIN"),
      ("kafkas://me:pw@a:1", [("sasl.mechanism", "SCRAM-SHA-512")], "SASL_SSL", "SCRAM-SHA-512"),
      ("kafkas://a:1", [("sasl.mechanisms", "OAUTHBEARER")], "SASL_SSL", "OAUTHBEARER"),
    ] as [(String, [(name: String, value: String)], String, String?)])
  func securesByTheAddress(
    _ address: String, _ given: [(name: String, value: String)], _ transport: String,
    _ mechanism: String?
  ) throws {
    let properties = try KafkaSettings.producer(access(address, given)).properties
    func value(_ names: Set<String>) -> String? {
      properties.last { names.contains($0.name) }?.value
    }
    #expect(value(["security.protocol"]) == transport)
    #expect(value(["sasl.mechanism", "sasl.mechanisms"]) == mechanism)
    #expect(value(["sasl.password"]) == (address.contains("me:pw") ? "pw" : nil))
    #expect(value(["client.id"]) == "test/1")
  }

  @Test func takesFilesAndPasswordOfTheAccess() throws {
    var access = try access("kafkas://me@a:1,b:2")
    #expect(throws: BrokerError.unsuitable("the user me has no password")) {
      try KafkaSettings.producer(access)
    }
    access.password = "secret"
    access.authorityFile = "/ca.pem"
    access.certificateFile = "/cert.pem"
    access.keyFile = "/key.pem"
    let properties = try KafkaSettings.producer(access).properties
    for expected in [
      ("bootstrap.servers", "a:1,b:2"), ("sasl.password", "secret"),
      ("ssl.ca.location", "/ca.pem"), ("ssl.certificate.location", "/cert.pem"),
      ("ssl.key.location", "/key.pem"),
    ] {
      #expect(properties.contains { $0 == expected })
    }
    // A file that is not there is told in words.
    #expect(throws: BrokerError.self) { try KafkaConnection.connect(access) }
    let wrong = BrokerAccess(try #require(BrokerAddress("amqp://localhost")), program: "test")
    #expect(throws: BrokerError.self) { try KafkaSettings.producer(wrong) }
  }

  @Test func findsNobodyAtAnAddress() throws {
    do {
      _ = try KafkaConnection.connect(access("kafka://127.0.0.1:1"))
      Issue.record("connected to nobody")
    } catch BrokerError.away(let text) { #expect(text.contains("127.0.0.1:1")) }
  }

  /// A mock broker that knows neither TLS nor SASL.
  @Test(arguments: ["kafkas://", "kafka://me:pw@", "kafkas://me:pw@"])
  func tellsABrokerThatIsSpokenToWrongly(_ beginning: String) throws {
    let cluster = try MockCluster()
    do {
      _ = try KafkaConnection.connect(access(beginning + cluster.servers))
      Issue.record("connected by \(beginning)")
    } catch { #expect(!"\(error)".isEmpty) }
  }

  @Test func passesOnLinesOfAKindLessAndLessOften() {
    let told = Mutex<[String]>([])
    let log = KafkaLog { line in told.withLock { $0.append(line) } }
    var lines: [String] { told.withLock { $0 } }
    let second: Int64 = 1_000_000_000
    log.note(facility: "FAIL", "a", now: 0)
    log.note(facility: "FAIL", "b", now: 1)
    log.note(facility: "ERROR", "c", now: 2)
    log.note(facility: "FAIL", "d", now: second - 1)
    log.note(facility: "FAIL", "e", now: second)
    log.note(facility: "FAIL", "f", now: 2 * second)
    log.note(facility: "FAIL", "g", now: 3 * second)
    #expect(lines == ["a", "c", "e (2 more of FAIL before it)", "g (1 more of FAIL before it)"])
    // A day of it is some lines more. After silence it is told at once again, and then as at the beginning.
    for each in 4..<86_400 { log.note(facility: "FAIL", "x", now: Int64(each) * second) }
    #expect(1300...1400 ~= lines.count)
    let quiet = 90_000 * second
    for (index, text) in ["y", "z"].enumerated() {
      log.note(facility: "FAIL", text, now: quiet + 100 * second * Int64(index))
    }
    log.note(facility: "FAIL", "1", now: quiet + 101 * second)
    #expect(lines.suffix(2) == ["z", "1"])
    let before = lines.count
    for index in 0..<1000 { log.note(facility: "\(index)", "x", now: quiet + 102 * second) }
    #expect(lines.count == before + 254)
  }

  @Test(arguments: [
    (RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, KafkaVerdict.message("MESSAGE_TOO_LARGE")),
    (RD_KAFKA_RESP_ERR_INVALID_RECORD, .message("REJECTED")),
    (RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, .unsuitable),
    (RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, .unsuitable),
    (RD_KAFKA_RESP_ERR__AUTHENTICATION, .unsuitable),
    (RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, .away), (RD_KAFKA_RESP_ERR__FATAL, .away),
    (RD_KAFKA_RESP_ERR__PURGE_INFLIGHT, .away), (RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, .away),
    (RD_KAFKA_RESP_ERR_UNKNOWN, .away), (RD_KAFKA_RESP_ERR_END_ALL, .away),
  ])
  func judgesADelivery(_ error: rd_kafka_resp_err_t, _ verdict: KafkaVerdict) {
    #expect(KafkaErrors.ofDelivery(.init(rawValue: error.rawValue)) == verdict)
  }
}
