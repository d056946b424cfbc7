import Foundation
import Posix
import Synchronization
import Testing

@testable import Supervision

/// What a service manager receives, on a real socket.
private final class Manager {
  let address: String
  private let number: Int32
  private let folder: URL?

  /// - Parameter isAbstract: the address is a name outside of the file system.
  init(isAbstract: Bool = false) throws {
    number = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_NONBLOCK.rawValue), 0)
    let name = "holdfast-\(UUID().uuidString)"
    if isAbstract {
      folder = nil
      address = "@\(name)"
    } else {
      let made = FileManager.default.temporaryDirectory.appendingPathComponent(name)
      try FileManager.default.createDirectory(at: made, withIntermediateDirectories: true)
      folder = made
      address = made.appendingPathComponent("notify").path
    }
    var storage = sockaddr_un()
    storage.sun_family = sa_family_t(AF_UNIX)
    let bytes = isAbstract ? [0] + Array(name.utf8) : Array(address.utf8) + [0]
    unsafe withUnsafeMutableBytes(of: &storage.sun_path) { unsafe $0.copyBytes(from: bytes) }
    let length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
    let result = unsafe withUnsafePointer(to: &storage) { pointer in
      unsafe bind(
        number, UnsafeRawPointer(pointer).assumingMemoryBound(to: sockaddr.self), length)
    }
    try #require(result == 0)
  }

  deinit {
    close(number)
    if let folder { try? FileManager.default.removeItem(at: folder) }
  }

  /// The messages that have come, each with its lines.
  func take() -> [[String]] {
    var messages: [[String]] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = unsafe recv(number, &buffer, buffer.count, 0)
      guard count > 0 else { return messages }
      let text = String(decoding: buffer[..<count], as: UTF8.self)
      messages.append(text.split(separator: "\n").map(String.init))
    }
  }
}

private let second: Int64 = 1_000_000_000

struct ServiceManagerTests {
  private func start(
    _ manager: Manager, watchdogSeconds: Int64? = nil,
    report: @escaping @Sendable (String) -> Void = { _ in }
  ) throws -> ServiceManager {
    let watchdog = watchdogSeconds.flatMap {
      Watchdog(microseconds: "\($0 * 1_000_000)", processID: nil)
    }
    let socket = try #require(try NotifySocket(address: manager.address))
    return ServiceManager(socket, watchdog, report: report)
  }

  @Test(arguments: [false, true])
  func saysWhatHappens(isAbstract: Bool) throws {
    let manager = try Manager(isAbstract: isAbstract)
    let service = try start(manager)
    service.tell(status: "recovering: 5 records")
    service.tell(status: "recovering: 5 records")
    service.reloading {}
    #expect(manager.take() == [["STATUS=recovering: 5 records"]])
    service.ready(status: "serves 127.0.0.1:7420")
    #expect(manager.take() == [["READY=1", "STATUS=serves 127.0.0.1:7420"]])
    var hasReloaded = false
    let before = SystemClock.monotonicNanoseconds() / 1000
    service.reloading { hasReloaded = true }
    let reload = manager.take()
    #expect(hasReloaded && reload.count == 2)
    #expect(reload[0][0] == "RELOADING=1" && reload[0][2].hasPrefix("STATUS="))
    let told = try #require(Int64(reload[0][1].replacing("MONOTONIC_USEC=", with: "")))
    #expect((before...SystemClock.monotonicNanoseconds() / 1000).contains(told))
    #expect(reload[1] == ["READY=1", "STATUS=serves 127.0.0.1:7420"])
    service.stopping(status: "finishes open calls", within: 15 * second)
    service.stopping(status: "again", within: 15 * second)
    #expect(
      manager.take() == [
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000", "STATUS=finishes open calls"]
      ])
    // Nothing takes that back.
    service.ready(status: "serves")
    service.reloading {}
    #expect(manager.take().isEmpty)
  }

  @Test func aReloadThatIsOvertakenByTheEndSaysNoMore() throws {
    let manager = try Manager()
    let service = try start(manager)
    service.ready(status: "serves")
    service.reloading { service.stopping(status: "ends", within: second) }
    #expect(manager.take().last?.first == "STOPPING=1")
  }

  @Test func keepsAStatusOnOneLine() throws {
    let manager = try Manager()
    try start(manager).tell(status: "a\nREADY=1\r\nb")
    #expect(manager.take() == [["STATUS=a READY=1 b"]])
  }

  @Test func extendsAStartThatWorks() throws {
    let manager = try Manager()
    let service = try start(manager)
    let extended = [["EXTEND_TIMEOUT_USEC=60000000"]]
    var last: (time: Int64, work: Int64) = (.min, 0)
    service.step(now: 100 * second, work: second, &last)
    #expect(manager.take() == extended)
    service.step(now: 104 * second, work: 2 * second, &last)
    #expect(manager.take().isEmpty)
    service.step(now: 105 * second, work: 2 * second, &last)
    #expect(manager.take() == extended)
    // Five seconds without work: what it waits for may never come.
    service.step(now: 110 * second, work: 2 * second + 1, &last)
    #expect(manager.take().isEmpty)
    service.step(now: 115 * second, work: 3 * second, &last)
    #expect(manager.take() == extended)
    service.ready(status: "serves")
    _ = manager.take()
    service.step(now: 200 * second, work: 9 * second, &last)
    #expect(manager.take().isEmpty)
  }

  @Test func pingsWhileEverythingComesRound() throws {
    let manager = try Manager()
    let reports = Mutex<[String]>([])
    let service = try start(manager, watchdogSeconds: 10) { text in
      reports.withLock { $0.append(text) }
    }
    let rounds = Mutex<[Int64]>([0, 0])
    service.watch([
      Watched("loop-0") { rounds.withLock { $0[0] } },
      Watched("journal") { rounds.withLock { $0[1] } },
    ])
    var last: (time: Int64, work: Int64) = (.min, 0)
    func pings(at now: Int64) -> Bool {
      service.step(now: now, work: 0, &last)
      return manager.take() == [["WATCHDOG=1"]]
    }
    // systemd begins to count with READY.
    #expect(!pings(at: second))
    service.ready(status: "serves")
    _ = manager.take()
    rounds.withLock { $0 = [100 * second, 100 * second] }
    #expect(pings(at: 105 * second))
    rounds.withLock { $0[1] = 104 * second }
    #expect(!pings(at: 106 * second))
    #expect(!pings(at: 107 * second))
    #expect(
      reports.withLock { $0 } == [
        "loop-0 has not come round for 5.0 s: the service manager is not told that this server goes on"
      ])
    rounds.withLock { $0[0] = 108 * second }
    #expect(pings(at: 108 * second))
    #expect(!pings(at: 114 * second))
    #expect(reports.withLock { $0 }.count == 3)
    // Others take their place.
    service.watch([])
    #expect(pings(at: 120 * second))
    service.stopping(status: "ends", within: second)
    _ = manager.take()
    #expect(!pings(at: 121 * second))
  }

  @Test func aManagerThatIsGoneIsNotWaitedFor() throws {
    let manager = try Manager()
    let socket = try #require(try NotifySocket(address: manager.address))
    var taken = 0
    // Nobody reads: the socket's queue is full at some time.
    while socket.send(["WATCHDOG=1"]), taken < 100_000 { taken += 1 }
    #expect((1..<100_000).contains(taken))
    #expect(manager.take().count == taken)
    #expect(socket.send(["READY=1"]))
    try FileManager.default.removeItem(atPath: manager.address)
    #expect(!socket.send(["READY=1"]))
  }

  @Test(
    arguments: [
      ("", nil), ("/run/x", nil), ("@x", nil),
      ("@", "Invalid argument"), ("run/x", "Invalid argument"), ("vsock:2:1", "Invalid argument"),
      ("/" + String(repeating: "x", count: 107), "File name too long"),
      ("@" + String(repeating: "x", count: 107), nil),
      ("@" + String(repeating: "x", count: 108), "File name too long"),
    ] as [(String, String?)])
  func knowsAnAddress(address: String, problem: String?) throws {
    let reports = Mutex<[String]>([])
    let report: @Sendable (String) -> Void = { text in reports.withLock { $0.append(text) } }
    let found = ServiceManager.find({ $0 == "NOTIFY_SOCKET" ? address : nil }, report: report)
    #expect((found != nil) == (problem == nil && !address.isEmpty))
    let told = reports.withLock { $0 }
    if let problem {
      #expect(told.count == 1 && told[0].contains(problem), "\(told)")
    } else {
      #expect(told.isEmpty)
    }
  }

  @Test(
    arguments: [
      ("30000000", nil, 15 * second, 7 * second + second / 2),
      ("30000000", "\(getpid())", 15 * second, 7 * second + second / 2),
      ("1000000", nil, 2 * second, second / 4), ("1", nil, 2 * second, 1_000_000),
      ("30000000", "1", nil, nil), ("0", nil, nil, nil), ("-5", nil, nil, nil),
      ("x", nil, nil, nil), (nil, nil, nil, nil), ("9223372036854775807", nil, nil, nil),
    ] as [(String?, String?, Int64?, Int64?)])
  func knowsWhatAWatchdogAsks(
    microseconds: String?, processID: String?, patience: Int64?, pause: Int64?
  ) {
    let watchdog = Watchdog(microseconds: microseconds, processID: processID)
    #expect(watchdog?.patienceNanoseconds == patience)
    #expect(watchdog?.pauseNanoseconds == pause)
  }
}
