import Glibc
import Posix
import Testing

@Suite("Clocks")
struct ClockTests {
  private static func wallNanoseconds() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
  }

  @Test("The system's clock starts at the wall clock and never runs back")
  func system() {
    let before = Self.wallNanoseconds()
    let clock = SystemClock()
    var last = clock.now()
    #expect(last.nanoseconds >= before)
    #expect(last.nanoseconds <= Self.wallNanoseconds() + 1_000_000_000)
    for _ in 0..<10_000 {
      let now = clock.now()
      #expect(now >= last)
      last = now
    }
  }

  @Test("It starts no earlier than an earlier run has seen")
  func notBefore() {
    let future = Timestamp(nanoseconds: Self.wallNanoseconds() + 3_600_000_000_000)
    let clock = SystemClock(notBefore: future)
    #expect(clock.now() >= future)
    #expect(clock.now().nanoseconds < future.nanoseconds + 60_000_000_000)
    let past = SystemClock(notBefore: Timestamp(nanoseconds: 5))
    #expect(past.now().nanoseconds > 1_577_836_800_000_000_000)
  }

  @Test("The test clock moves forward when told, and only then")
  func manual() {
    let clock = ManualClock()
    let start = clock.now()
    #expect(start.nanoseconds == 1_577_836_800_000_000_000)
    #expect(clock.now() == start)
    clock.advance(byNanoseconds: 1_500)
    #expect(clock.now().nanoseconds == start.nanoseconds + 1_500)
    for duration in [0, -1, .min] as [Int64] { clock.advance(byNanoseconds: duration) }
    #expect(clock.now().nanoseconds == start.nanoseconds + 1_500)
  }

  @Test(
    "Timestamps add up, and stop at their ends",
    arguments: [
      (0, 5, 5), (5, -7, -2), (.max, 1, .max), (.max - 1, 5, .max), (.min, -1, .min),
      (.min + 1, -5, .min), (.max, .min, -1), (1, .max, .max),
    ] as [(Int64, Int64, Int64)])
  func advanced(start: Int64, duration: Int64, end: Int64) {
    let later = Timestamp(nanoseconds: start).advanced(byNanoseconds: duration)
    #expect(later == Timestamp(nanoseconds: end))
    #expect((later < Timestamp(nanoseconds: start)) == (end < start))
  }

  @Test("CPU time rises with work")
  func processorTime() {
    let process = Machine.processCPUNanoseconds()
    let thread = Machine.threadCPUNanoseconds()
    #expect(process > 0)
    var sum: UInt64 = 0
    while Machine.threadCPUNanoseconds() < thread + 1_000_000 { sum &+= Machine.random64() }
    #expect(Machine.processCPUNanoseconds() >= process + 1_000_000)
    #expect(Machine.processCPUNanoseconds(of: getpid()) ?? 0 > process)
    // Process numbers end at 4,194,303 (PID_MAX_LIMIT, proc_sys_kernel(5)).
    #expect(Machine.processCPUNanoseconds(of: 4_194_304) == nil)
  }

  @Test("The machine has a processor and descriptors")
  func machine() {
    #expect(Machine.usableProcessors >= 1)
    #expect(Machine.raiseDescriptorLimit() >= 256)
  }
}

@Suite("Clocks that are wrong")
struct WrongClockTests {
  private static let second: Int64 = 1_000_000_000
  private static let hour: Int64 = 3600 * second
  /// 2026-11-28.
  private static let newest: Int64 = 1_795_824_000 * second
  private static let last = ClockPolicy.range.upperBound

  @Test(
    "The wall clock at a start, beside the newest record",
    arguments: [
      (newest, newest, .plausible), (newest - second, newest, .plausible),
      (newest - second - 1, newest, .behind(second + 1)),
      (newest - 1000 * hour, newest, .behind(1000 * hour)),
      (0, newest, .behind(newest)),
      (newest + 300 * second, newest, .plausible),
      (newest + 300 * second + 1, newest, .ahead(300 * second + 1)),
      (newest + 24 * hour, newest, .ahead(24 * hour)),
      (newest + 24 * hour + 1, newest, .tooFarAhead(24 * hour + 1)),
      (last, newest, .tooFarAhead(last - newest)),
      (last, 0, .tooFarAhead(last)), (0, last, .behind(last)),
      (last + 1, newest, .outOfRange), (.max, newest, .outOfRange),
      (-1, newest, .outOfRange), (.min, newest, .outOfRange),
      (newest, last + 1, .outOfRange), (newest, .max, .outOfRange), (newest, .min, .outOfRange),
      // A new directory.
      (0, nil, .plausible), (newest, nil, .plausible), (last, nil, .plausible),
      (-1, nil, .outOfRange), (.max, nil, .outOfRange),
    ] as [(Int64, Int64?, ClockPolicy.Finding)])
  func start(wall: Int64, newest: Int64?, finding: ClockPolicy.Finding) {
    let policy = ClockPolicy(jumpMax: 24 * Self.hour)
    #expect(
      policy.judge(
        wall: Timestamp(nanoseconds: wall), newest: newest.map { Timestamp(nanoseconds: $0) })
        == finding)
  }

  @Test("What was accepted is told all the same")
  func accepted() {
    let policy = ClockPolicy(jumpMax: .max)
    #expect(
      policy.judge(
        wall: Timestamp(nanoseconds: Self.last), newest: Timestamp(nanoseconds: Self.newest))
        == .ahead(Self.last - Self.newest))
  }

  @Test("A server can count for a year from any start")
  func room() {
    let end = Timestamp(nanoseconds: Self.last).advanced(byNanoseconds: 365 * 24 * Self.hour)
    #expect(end.nanoseconds < .max)
  }

  /// Offsets of the server's time from the wall clock's, at seconds of its time; what is reported.
  @Test(
    "Jumps while it runs",
    arguments: [
      ([(0, 0), (10, 0), (100, second - 1), (200, 1 - second)], [nil, nil, nil, nil]),
      ([(0, second)], [-second]), ([(0, -second)], [second]),
      // Once is enough; back again is a jump too, told when a minute has passed, and so is the sum.
      ([(0, hour), (1, hour), (100, hour), (200, 0)], [-hour, nil, nil, hour]),
      ([(0, hour), (1, 0), (59, 0), (60, 0), (61, 0)], [-hour, nil, nil, hour, nil]),
      ([(0, hour), (30, 2 * hour), (60, 3 * hour)], [-hour, nil, -2 * hour]),
      // There and back within the minute.
      ([(0, hour), (10, 0), (50, hour), (70, hour)], [-hour, nil, nil, nil]),
      ([(0, .max), (100, .min)], [-.max, .max]), ([(0, .min)], [.max]),
    ] as [([(Int64, Int64)], [Int64?])])
  func jumps(offsets: [(Int64, Int64)], reported: [Int64?]) {
    var watch = ClockWatch(offset: 0)
    let seen = offsets.map { time, offset in
      watch.jump(offset: offset, now: Timestamp(nanoseconds: Self.newest + time * Self.second))
    }
    #expect(seen == reported)
  }

  @Test("A clock that stands still")
  func fixed() {
    let time = Timestamp(nanoseconds: 5)
    #expect(FixedClock(time).now() == time)
  }
}
