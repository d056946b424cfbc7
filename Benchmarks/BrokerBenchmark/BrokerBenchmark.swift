// What a message costs this side of a connection to RabbitMQ.
//
//     broker-benchmark ADDRESS MESSAGES [WINDOW]
//
// Publishes so many messages like the relay's, of 300 bytes with ten attributes, to two queues that it makes, with at most
// WINDOW unconfirmed (10,000); then takes them all out and accepts them. The queues stay. HOLDFAST_BROKER_PASSWORD is the
// password, unless the address has it. Prints two lines: how many a second, and how much of a processor's time a message took here.
internal import Glibc
internal import Messaging
internal import Posix
internal import RabbitMQ

@main
struct BrokerBenchmark {
  static func main() {
    do { try run() } catch {
      print("broker-benchmark: \(error)")
      exit(1)
    }
  }

  private static func run() throws {
    let arguments = CommandLine.arguments
    guard 3...4 ~= arguments.count, let address = BrokerAddress(arguments[1]),
      let count = Int(arguments[2]), count > 0,
      let window = arguments.count == 4 ? Int(arguments[3]) : 10_000, window > 0
    else { throw Failure("broker-benchmark ADDRESS MESSAGES [WINDOW]") }
    let queues = BrokerDeclaration.partitioned("benchmark", count: 2)
    let publisher = try connect(address)
    try publisher.declare([queues])
    try publish(count, window, publisher)
    publisher.close()
    let consumer = try connect(address)
    try consume(count, window, queues, consumer)
    consumer.close()
  }

  private static func connect(_ address: BrokerAddress) throws -> any BrokerConnection {
    var access = BrokerAccess(address, program: "broker-benchmark/1")
    access.password = Machine.environment("HOLDFAST_BROKER_PASSWORD")
    return try RabbitMQConnection.connect(access)
  }

  private static func publish(
    _ count: Int, _ window: Int, _ connection: any BrokerConnection
  ) throws {
    var message = BrokerMessage(
      to: "benchmark", type: "StockReserved", source: "holdfast", contentType: "application/json",
      attributes: [
        ("subject", "SKU-1"), ("sequence", "00000000000000000000"),
        ("reservationid", "01890a5d-ac96-774b-bcce-b302099a8057"), ("reference", "order-1"),
      ], body: [UInt8](repeating: UInt8(ascii: "x"), count: 300))
    var (sent, confirmed) = (0, 0)
    let clock = Clocks()
    while confirmed < count {
      while sent < count, sent - confirmed < window {
        sent += 1
        let sku = "SKU-\(sent % 1000)"
        (message.routingKey, message.partitionKey) = (sku, sku)
        message.id = "0123456789abcdef-\(sent)"
        message.time = SystemClock.wall().nanoseconds
        _ = try connection.publish(message)
      }
      var failure: String?
      try connection.poll(milliseconds: 1000) { notice in
        switch notice {
        case .confirmed: confirmed += 1
        case .blocked: break
        default: failure = "\(notice)"
        }
      }
      if let failure { throw Failure(failure) }
    }
    clock.report("published", count)
  }

  private static func consume(
    _ count: Int, _ window: Int, _ queues: BrokerDeclaration, _ connection: any BrokerConnection
  ) throws {
    let clock = Clocks()
    try connection.consume([queues], prefetch: min(65_535, window), group: "")
    var taken = 0
    var tags: [UInt64] = []
    while taken < count {
      try connection.poll(milliseconds: 1000) { notice in
        if case .delivery(let delivery) = notice { tags.append(delivery.tag) }
      }
      taken += tags.count
      try connection.accept(tags)
      tags.removeAll(keepingCapacity: true)
    }
    clock.report("consumed", count)
  }
}

private struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Time and processor time since it was made.
private struct Clocks {
  private let start = SystemClock.monotonicNanoseconds()
  private let processor = Machine.processCPUNanoseconds()

  func report(_ what: String, _ count: Int) {
    let seconds = Double(SystemClock.monotonicNanoseconds() - start) / 1e9
    let each = (Machine.processCPUNanoseconds() - processor) / Int64(count)
    print("\(what) \(Int(Double(count) / seconds)) messages/s, \(each) ns of a processor each")
  }
}
