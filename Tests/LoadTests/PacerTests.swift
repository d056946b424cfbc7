import Testing

@testable import LoadKit

/// Profiles of every kind, and how many calls there are in them.
private let profiles: [(text: String, calls: Double)] = [
  ("1000/3s", 3_000), ("0-1000/10s", 5_000), ("1000-0/10s", 5_000), ("500-1500/4s", 4_000),
  ("1500-500/4s", 4_000), ("100/1s,0/2s,300/1s", 400), ("0/1s,1000/1s,0/1s", 1_000),
  ("0-2000/1s,2000/2s,2000-0/1s", 6_000), ("333.333/30s", 9_999.99), ("7/1m,0.5/1h", 2_220),
]

/// All that is due in a profile, by one worker of several after the other.
private func ticks(
  _ text: String, _ arrivals: Arrivals = .constant, workers: Int = 1, seed: UInt64 = 1
) throws -> [Int64] {
  let profile = try #require(LoadProfile(text))
  var times: [Int64] = []
  for worker in 0..<workers {
    var pacer = Pacer(
      profile: profile, arrivals: arrivals, startNanoseconds: 0, worker: worker, workers: workers,
      seed: seed + UInt64(worker))
    while pacer.scheduledNanoseconds < .max {
      times.append(pacer.scheduledNanoseconds)
      pacer.advance()
    }
  }
  return times.sorted()
}

@Suite struct LoadProfileTests {
  @Test(arguments: profiles.indices)
  func callsAreTheIntegralOfTheRate(index: Int) throws {
    let profile = try #require(LoadProfile(profiles[index].text))
    let total = try #require(profile.seconds)
    let steps = 20_000
    let step = total / Double(steps)
    var integral = 0.0
    for number in 0..<steps {
      // The middle of a step is exact on a straight line; a jump inside a step costs at most that step.
      integral += profile.rate(atSeconds: (Double(number) + 0.5) * step) * step
      let calls = profile.calls(untilSeconds: Double(number + 1) * step)
      #expect(abs(calls - integral) <= profile.ratePerSecondHighest * step * 2)
    }
    #expect(abs(profile.calls(untilSeconds: total) - profiles[index].calls) < 1e-6)
    #expect(profile.calls(untilSeconds: total + 100) == profile.calls(untilSeconds: total))
    #expect(profile.calls(untilSeconds: -1) == 0)
  }

  @Test(arguments: [
    "5000", "0.5", "10000/10s,20000/10s,40000/10s", "0-50000/30s", "50000-0/0.5s,7/3600s",
  ])
  func readsWhatItSays(text: String) {
    #expect(LoadProfile(text)?.description == text)
  }

  @Test(arguments: [
    ("10/1m", "10/60s"), ("10/500ms", "10/0.5s"), ("10/2", "10/2s"), ("10-10/2h", "10/7200s"),
  ])
  func unitsOfTime(text: String, seconds: String) {
    #expect(LoadProfile(text)?.description == seconds)
  }

  @Test(arguments: [
    "", "0", "-5", "x", "nan", "inf", "10/", "/10", "10/0s", "0/10s", "10-/5s", "1-2-3/5s", "10-20",
    "10,20", "10/5s,", "10/5s,20", "10/-5s", "10/5d", "10000001", "0.0001", "1/25h", "10/1s/1s",
    "10/nan", "10/infs", "5/1" + String(repeating: "0", count: 308) + "h",
  ])
  func profilesThatAreNone(text: String) { #expect(LoadProfile(text) == nil) }

  @Test func warmUpKeepsTheFirstRate() throws {
    let profile = try #require(LoadProfile("100-300/2s")).warmedUp(seconds: 1)
    #expect(profile.description == "100/1s,100-300/2s")
    #expect(LoadProfile(ratePerSecond: 5).warmedUp(seconds: 0).seconds == nil)
  }
}

@Suite struct PacerTests {
  /// Each call stands where the integral of the rate reaches its number.
  @Test(arguments: profiles.indices, [1, 3])
  func constantArrivalsInvertTheProfile(index: Int, workers: Int) throws {
    let profile = try #require(LoadProfile(profiles[index].text))
    let times = try ticks(profiles[index].text, workers: workers)
    #expect(times.count == Int(profiles[index].calls.rounded(.up)))
    for (number, time) in times.enumerated() {
      let calls = profile.calls(untilSeconds: Double(time) / 1e9)
      // Times are cut to nanoseconds; the integral is steep at most by the highest rate.
      #expect(abs(calls - Double(number)) < 1e-9 * profile.ratePerSecondHighest + 1e-6)
    }
    #expect(zip(times, times.dropFirst()).allSatisfy { $0 <= $1 })
  }

  @Test func nothingIsDueWhereTheRateIsZero() throws {
    let times = try ticks("0/5s,100/1s,0/5s,100/1s")
    #expect(times.count == 200)
    #expect(times.first == 5_000_000_000)
    #expect(times[99] == 5_990_000_000)
    #expect(times[100] == 11_000_000_000)
  }

  @Test func workersShareTheRateEvenly() throws {
    #expect(try ticks("1000/9ms", workers: 3) == (0..<9).map { Int64($0) * 1_000_000 })
  }

  /// After 24 hours at a rate that no binary fraction has, a call is due to the nanosecond.
  @Test func aDayDoesNotDrift() throws {
    let profile = try #require(LoadProfile("37/24h"))
    var pacer = Pacer(
      profile: profile, arrivals: .constant, startNanoseconds: 0, worker: 0, workers: 1, seed: 1)
    let calls = 37 * 86_400
    for _ in 0..<calls - 1 { pacer.advance() }
    #expect(abs(pacer.scheduledNanoseconds - 86_399_972_972_973) <= 1)
    pacer.advance()
    #expect(pacer.scheduledNanoseconds == .max)
  }

  @Test func aCopyGoesThroughTheSameCalls() throws {
    var first = Pacer(
      profile: LoadProfile(ratePerSecond: 1_000), arrivals: .poisson, startNanoseconds: 7,
      worker: 1, workers: 2, seed: 5)
    for _ in 0..<10 { first.advance() }
    var second = first
    for _ in 0..<100 {
      #expect(first.scheduledNanoseconds == second.scheduledNanoseconds)
      first.advance()
      second.advance()
    }
    #expect(first.count == 110 && second.count == 110)
  }

  /// Gaps of a Poisson process are exponential: mean and standard deviation are both 1/rate, and
  /// e^-1 of them are longer than that. Bounds are four standard errors.
  @Test(arguments: [1, 2, 4])
  func poissonGaps(workers: Int) throws {
    let times = try ticks("1000/200s", .poisson, workers: workers, seed: 11)
    let count = Double(times.count)
    #expect(abs(count - 200_000) < 4 * 200_000.0.squareRoot())
    let gaps = zip(times, times.dropFirst()).map { Double($1 - $0) / 1e6 }
    let mean = gaps.reduce(0, +) / count
    let variance = gaps.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count
    #expect(abs(mean - 1) < 4 / count.squareRoot())
    // The variance of an exponential's sample variance is 8/n.
    #expect(abs(variance - 1) < 4 * (8 / count).squareRoot())
    let long = Double(gaps.count { $0 > 1 }) / count
    #expect(abs(long - 0.36788) < 4 * (0.36788 * 0.63212 / count).squareRoot())
  }

  /// On a ramp, the calls of a Poisson process follow the integral of the rate: a quarter of them in
  /// the first half, and their number in each second spreads as its mean.
  @Test func poissonFollowsTheRamp() throws {
    let times = try ticks("0-2000/100s", .poisson, seed: 3)
    let count = Double(times.count)
    #expect(abs(count - 100_000) < 4 * 100_000.0.squareRoot())
    let early = Double(times.count { $0 < 50_000_000_000 }) / count
    #expect(abs(early - 0.25) < 4 * (0.25 * 0.75 / count).squareRoot())
    var bySecond = [Double](repeating: 0, count: 100)
    for time in times { bySecond[Int(time / 1_000_000_000)] += 1 }
    let chiSquare = bySecond.enumerated().reduce(0.0) { sum, second in
      let expected = 20 * (Double(second.offset) + 0.5)
      return sum + (second.element - expected) * (second.element - expected) / expected
    }
    // 100 degrees of freedom: mean 100, standard deviation √200.
    #expect(abs(chiSquare - 100) < 4 * 200.0.squareRoot())
  }
}
