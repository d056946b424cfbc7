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
