import Testing

@testable import LoadReport

struct AxisTests {
  @Test(
    arguments: [
      (100, ["0", "50", "100"]), (99, ["0", "50", "100"]), (7, ["0", "2", "4", "6", "8"]),
      (20_000, ["0", "5k", "10k", "15k", "20k"]), (0.3, ["0", "0.1", "0.2", "0.3"]),
      (0, ["0", "0.5", "1"]), (.infinity, ["0", "0.5", "1"]), (.nan, ["0", "0.5", "1"]),
      (1_234_567, ["0", "500k", "1M", "1.5M"]),
    ] as [(Double, [String])])
  func linearTicksAreRound(top: Double, labels: [String]) {
    let axis = Axis.fromZero(to: top)
    #expect(axis.ticks.map(\.label) == labels)
    #expect(axis.scale.place(0) == 0)
    #expect(axis.scale.place(axis.ticks.last?.value ?? 0) == 1)
  }

  @Test(
    arguments: [
      ([90, 196_000], ["100", "1k", "10k", "100k"]), ([100, 1_000], ["100", "200", "500", "1k"]),
      ([3, 3], ["2", "5", "10"]), ([], ["1", "2", "5", "10"]),
      ([0, -5, .nan], ["1", "2", "5", "10"]),
    ] as [([Double], [String])])
  func logarithmicTicksAreRound(values: [Double], labels: [String]) {
    let axis = Axis.logarithmic(values, label: Text.compact)
    #expect(axis.ticks.map(\.label) == labels)
  }

  @Test func everyNineTakesTheSameRoom() {
    let scale = Axis.percentiles.scale
    #expect(scale.place(0) == 0)
    for (percentile, place) in [(90, 0.25), (99, 0.5), (99.9, 0.75), (99.99, 1), (100, 1)] {
      #expect(abs(scale.place(percentile) - place) < 1e-9)
    }
  }

  @Test(
    arguments: [
      (0, 10, ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]),
      (0, 1, ["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1 s"]),
      (0, 124, ["0 s", "30 s", "60 s", "90 s", "120 s"]),
      (0, 600, ["0:00", "2:00", "4:00", "6:00", "8:00", "10:00"]),
      (0, 10_000, ["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00", "2:30:00"]),
      (-1, 3, ["-1 s", "0 s", "1 s", "2 s", "3 s"]),
      (0, .nan, ["0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1 s"]),
    ] as [(Double, Double, [String])])
  func timesAreRound(start: Double, end: Double, labels: [String]) {
    #expect(Axis.time(from: start, to: end).ticks.map(\.label) == labels)
  }

  @Test func placesAreWithinTheAxisWhateverTheValue() {
    let scales: [Scale] = [
      .linear(0...10), .linear(3...3), .logarithmic(1...100), .nines(upTo: 99.99),
    ]
    for scale in scales {
      for value in [-1, 0, 5, 1e300, Double.infinity, -Double.infinity, Double.nan] {
        #expect((0...1).contains(scale.place(value)))
      }
    }
  }

  @Test func aLongRunIsJoinedToWhatAChartCanShow() {
    let intervals = (0..<1_000).map { number in
      var interval = Report.Interval()
      interval.startSeconds = Double(number)
      interval.seconds = 1
      interval.isMeasured = number >= 100
      interval.answered = 10
      interval.outcomes = ["reserved": 10]
      interval.latencyMicroseconds = LatencySummary(count: 10, p99: Double(number), max: 5)
      return interval
    }
    let timeline = Timeline(intervals)
    #expect(timeline.intervals.count == 250)
    #expect(timeline.intervals[0].answered == 40)
    #expect(timeline.intervals[0].outcomes == ["reserved": 40])
    #expect(timeline.intervals[0].seconds == 4)
    #expect(timeline.intervals[0].latencyMicroseconds.p99 == 3)
    #expect(timeline.intervals.map(\.answered).reduce(0, +) == 10_000)
    #expect(Timeline([]).intervals.isEmpty)
    var rest = Report.Interval()
    rest.startSeconds = 2
    rest.seconds = 0.001
    rest.answered = 7
    #expect(Timeline(intervals[0...1] + [rest]).intervals.map(\.answered) == [10, 17])
  }
}
