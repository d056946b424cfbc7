import Glibc
import Posix
import Synchronization
import Testing

@Suite("Poller and wakeup")
struct PollerTests {
  @Test("Tokens come back as they were given")
  func tokens() throws {
    let wakeups = try (0..<4).map { _ in try Wakeup() }
    let tokens: [UInt64] = [0, 7, UInt64.max, 1 << 63 | 5]
    let poller = try Poller()
    for (wakeup, token) in zip(wakeups, tokens) { try poller.add(wakeup.number, token: token) }
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
    wakeups[1].signal()
    #expect(try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1)
    #expect(poller.event(at: 0).token == 7)
    for wakeup in wakeups { wakeup.signal() }
    let ready = try poller.wait(timeoutMilliseconds: patienceMilliseconds)
    #expect(Set((0..<ready).map { poller.event(at: $0).token }) == Set(tokens))
  }

  @Test("More than the capacity comes in several waits")
  func capacity() throws {
    let wakeups = try (0..<5).map { _ in try Wakeup() }
    let poller = try Poller(capacity: 2)
    for (index, wakeup) in wakeups.enumerated() {
      try poller.add(wakeup.number, token: UInt64(index))
      wakeup.signal()
    }
    var seen: Set<UInt64> = []
    while seen.count < wakeups.count {
      let ready = try poller.wait(timeoutMilliseconds: patienceMilliseconds)
      try #require((1...2).contains(ready))
      for index in 0..<ready {
        let token = poller.event(at: index).token
        seen.insert(token)
        wakeups[Int(token)].clear()
      }
    }
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
  }

  @Test("Readable, writable and hung up are told apart")
  func kinds() throws {
    let connected = try Connected()
    let poller = try Poller()
    try poller.add(connected.server.number, token: 1)
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)

    try poller.modify(connected.server.number, token: 2, readable: true, writable: true)
    #expect(try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1)
    #expect(poller.event(at: 0).token == 2)
    #expect(poller.event(at: 0).isWritable)
    #expect(!poller.event(at: 0).isReadable)
    #expect(!poller.event(at: 0).isHungUp)

    try poller.modify(connected.server.number, token: 3, readable: true, writable: false)
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
    #expect(send([1], to: connected.client.number) == .moved(1))
    #expect(try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1)
    #expect(poller.event(at: 0).isReadable)
    #expect(!poller.event(at: 0).isWritable)
    #expect(!poller.event(at: 0).isHungUp)

    // Level-triggered: it is told again until the byte is taken.
    #expect(try poller.wait(timeoutMilliseconds: 0) == 1)
    _ = receive(connected.server.number)
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)

    Socket.endSending(connected.client.number)
    #expect(try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1)
    #expect(poller.event(at: 0).isHungUp)
  }

  @Test("What is watched for nothing or removed is not told")
  func quiet() throws {
    let wakeup = try Wakeup()
    let poller = try Poller()
    try poller.add(wakeup.number, token: 1)
    wakeup.signal()
    try poller.modify(wakeup.number, token: 1, readable: false, writable: false)
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
    try poller.modify(wakeup.number, token: 1, readable: true, writable: false)
    #expect(try poller.wait(timeoutMilliseconds: 0) == 1)
    try poller.remove(wakeup.number)
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
    #expect(throws: Errno(code: ENOENT)) { try poller.remove(wakeup.number) }
  }

  @Test("Added for writing at once")
  func addedWritable() throws {
    let connected = try Connected()
    let poller = try Poller()
    try poller.add(connected.client.number, token: 4, writable: true)
    #expect(try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1)
    #expect(poller.event(at: 0).isWritable)
  }

  @Test("Wrong descriptors are errors")
  func errors() throws {
    let poller = try Poller()
    #expect(throws: Errno(code: EBADF)) { try poller.add(-1, token: 0) }
    let wakeup = try Wakeup()
    try poller.add(wakeup.number, token: 0)
    #expect(throws: Errno(code: EEXIST)) { try poller.add(wakeup.number, token: 1) }
  }

  @Test("A wait in milliseconds lasts that long", arguments: [0, 1, 20] as [Int32])
  func milliseconds(_ timeout: Int32) throws {
    let poller = try Poller()
    let before = SystemClock.monotonicNanoseconds()
    #expect(try poller.wait(timeoutMilliseconds: timeout) == 0)
    let elapsed = SystemClock.monotonicNanoseconds() - before
    #expect(elapsed >= Int64(timeout) * 1_000_000)
    #expect(elapsed < 5_000_000_000)
  }

  @Test(
    "A wait in nanoseconds lasts that long",
    arguments: [.min, -1, 0, 1, 300_000, 20_000_000] as [Int64])
  func nanoseconds(_ timeout: Int64) throws {
    let poller = try Poller()
    let before = SystemClock.monotonicNanoseconds()
    #expect(try poller.wait(timeoutNanoseconds: timeout) == 0)
    let elapsed = SystemClock.monotonicNanoseconds() - before
    #expect(elapsed >= timeout)
    #expect(elapsed < 5_000_000_000)
  }

  @Test("An endless wait in nanoseconds ends with an event")
  func longNanoseconds() throws {
    let wakeup = try Wakeup()
    let poller = try Poller()
    try poller.add(wakeup.number, token: 3)
    wakeup.signal()
    #expect(try poller.wait(timeoutNanoseconds: .max) == 1)
  }

  @Test("A thread that waits for ever is woken by another")
  func wakeup() throws {
    let wakeup = try Wakeup()
    let poller = try Poller()
    try poller.add(wakeup.number, token: 1)
    for _ in 0..<100 {
      let thread = try Thread(name: "waker") { wakeup.signal() }
      #expect(try poller.wait(timeoutMilliseconds: patienceMilliseconds) == 1)
      thread.join()
      wakeup.clear()
      #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
    }
  }

  @Test("Many signals are one, and clearing none does not block")
  func manySignals() throws {
    let wakeup = try Wakeup()
    let poller = try Poller()
    try poller.add(wakeup.number, token: 1)
    wakeup.clear()
    for _ in 0..<1000 { wakeup.signal() }
    #expect(try poller.wait(timeoutMilliseconds: 0) == 1)
    wakeup.clear()
    #expect(try poller.wait(timeoutMilliseconds: 0) == 0)
    wakeup.signal()
    #expect(try poller.wait(timeoutMilliseconds: 0) == 1)
  }

  @Test("A joined thread has done its work")
  func join() throws {
    let sum = Atomic<Int>(0)
    let box = Box(sum)
    let threads = try (1...8).map { number in
      try Thread(name: "a thread with a name too long") {
        box.value.add(number, ordering: .relaxed)
      }
    }
    for thread in threads { thread.join() }
    #expect(box.value.load(ordering: .relaxed) == 36)
  }

  private final class Box: Sendable {
    let value: Atomic<Int>
    init(_ value: consuming Atomic<Int>) { self.value = value }
  }
}
