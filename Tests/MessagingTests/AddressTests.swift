// Addresses of brokers, as people and files write them.
import Messaging
import Testing

struct AddressTests {
  @Test(
    arguments: [
      ("amqp://localhost", "localhost", 5672, "guest", nil, "/", false),
      ("amqp://localhost/", "localhost", 5672, "guest", nil, "/", false),
      ("amqps://mq.example", "mq.example", 5671, "guest", nil, "/", true),
      ("amqp://shop@10.0.0.1:5673/orders", "10.0.0.1", 5673, "shop", nil, "orders", false),
      ("amqp://shop:p%40ss%3a@[::1]:5673/%2f", "::1", 5673, "shop", "p@ss:", "/", false),
      ("AMQP://shop:@host", "host", 5672, "shop", "", "/", false),
      ("amqp://a:b@c:d@host", "host", 5672, "a", "b@c:d", "/", false),
    ] as [(String, String, UInt16, String, String?, String, Bool)])
  func readsAMQP(
    _ text: String, _ host: String, _ port: UInt16, _ user: String, _ password: String?,
    _ virtualHost: String, _ isTLS: Bool
  ) {
    #expect(
      BrokerAddress(text)
        == .amqp(
          AMQPAddress(
            host: host, port: port, user: user, password: password, virtualHost: virtualHost,
            isTLS: isTLS)))
  }

  @Test(
    arguments: [
      ("kafka://a", ["a:9092"], "", nil, false),
      ("kafka://a:1,b:2,[::1]:3/", ["a:1", "b:2", "[::1]:3"], "", nil, false),
      ("kafkas://me:secret@a:9093", ["a:9093"], "me", "secret", true),
    ] as [(String, [String], String, String?, Bool)])
  func readsKafka(
    _ text: String, _ servers: [String], _ user: String, _ password: String?, _ isTLS: Bool
  ) {
    #expect(
      BrokerAddress(text)
        == .kafka(KafkaAddress(servers: servers, user: user, password: password, isTLS: isTLS)))
  }

  @Test(arguments: [
    "", "amqp", "amqp:", "amqp://", "amqp://:5672", "amqp://host:", "amqp://host:0",
    "amqp://host:65536", "amqp://host:-1", "amqp://host:+5", "amqp://@host", "amqp://:secret@host",
    "amqp://[::1", "amqp://[::1]5672", "amqp://[host]", "amqp://::1", "amqp://host/a/b",
    "amqp://host/%2", "amqp://host/%zz", "amqp://u%ff@host", "amqp://host?heartbeat=1",
    "amqp://ho st", "amqp://a,b", "amqp://a:1,b", "kafka://", "kafka://a,,b", "kafka://a/topic",
    "http://host",
    "kafka://" + Array(repeating: "a", count: 65).joined(separator: ","),
    "amqp://" + String(repeating: "a", count: 256),
  ])
  func refuses(_ text: String) {
    #expect(BrokerAddress(text) == nil)
  }

  @Test func hidesWhoAsks() {
    for text in ["amqp://me:secret@host:1/shop", "kafkas://me:secret@host:1"] {
      let shown = BrokerAddress(text)?.description ?? ""
      #expect(shown.hasSuffix("://host:1"))
      #expect(!shown.contains("secret") && !shown.contains("me:"))
    }
  }
}
