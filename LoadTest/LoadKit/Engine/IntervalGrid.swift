// The pieces that a run is told in: where they begin is arithmetic, so that all workers cut their
// counts at the same instants without a word between them.

/// Cuts time into intervals. Number 0 begins with the measured part, -1 ends there; where the warm-up
/// has no fixed length, number 0 begins with the run, and the measured part with one of them.
///
/// Long intervals are handed over in slices, so that whoever looks at the run while it lasts sees more
/// of it than its report keeps.
struct IntervalGrid: Sendable {
  /// When the first call is due, and when the measured part begins.
  let startNanoseconds: Int64
  let measureFrom: Int64
  /// The length of all; without one they grow with the run.
  let lengthNanoseconds: Int64?
  private let stages: [Stage]

  private struct Stage {
    let count: Int64
    let length: Int64
  }

  /// A slice is no longer.
  private static let sliceMaximum: Int64 = 1_000_000_000

  /// More than so many are not made of a run of known length, unless their length was asked for.
  private static let countMaximum = 1_000

  /// - Parameters:
  ///   - options: valid ones.
  ///   - startNanoseconds: when the first call is due.
  init(_ options: RunOptions, startNanoseconds: Int64) {
    self.startNanoseconds = startNanoseconds
    stages = IntervalGrid.intervalStages
    guard let seconds = options.measuredSeconds else {
      measureFrom = startNanoseconds
      lengthNanoseconds = options.intervalSeconds.map { IntervalGrid.divisible(Int64($0 * 1e9)) }
      return
    }
    measureFrom =
      startNanoseconds
      + (options.warmsUpUntilSteady ? 0 : Int64(options.warmUpSeconds * 1e9))
    let whole = options.warmUpSeconds + seconds
    let wanted =
      options.intervalSeconds
      ?? max(min(10, max(0.25, seconds / 120)), whole / Double(IntervalGrid.countMaximum))
    // A whole number of them: the measured part ends where one ends.
    lengthNanoseconds = IntervalGrid.divisible(
      Int64(seconds / max(1, (seconds / wanted).rounded()) * 1e9))
  }

  init(startNanoseconds: Int64, measureFrom: Int64, lengthNanoseconds: Int64?) {
    self.init(startNanoseconds, measureFrom, lengthNanoseconds, IntervalGrid.intervalStages)
  }

  private init(_ start: Int64, _ measureFrom: Int64, _ length: Int64?, _ stages: [Stage]) {
    startNanoseconds = start
    self.measureFrom = measureFrom
    lengthNanoseconds = length
    self.stages = stages
  }

  /// The slices of the intervals: each interval is a whole number of them.
  var slices: IntervalGrid {
    let length = lengthNanoseconds.map { $0 / IntervalGrid.sliceCount($0) }
    return IntervalGrid(startNanoseconds, measureFrom, length, IntervalGrid.sliceStages)
  }

  private static func sliceCount(_ length: Int64) -> Int64 {
    max(1, (length + sliceMaximum - 1) / sliceMaximum)
  }

  /// A whole number of nanoseconds for each slice.
  private static func divisible(_ length: Int64) -> Int64 {
    length - length % sliceCount(length)
  }

  /// A run of unknown length is told in 240 quarters of a second, then 540 seconds, then tens of
  /// seconds: a report stays readable, and a short run has its detail.
  private static let intervalStages = [
    Stage(count: 240, length: 250_000_000), Stage(count: 540, length: 1_000_000_000),
    Stage(count: .max / 2, length: 10_000_000_000),
  ]
  private static let sliceStages = [
    Stage(count: 240, length: 250_000_000), Stage(count: .max / 2, length: sliceMaximum),
  ]

  /// The interval that `time` falls into.
  func number(at time: Int64) -> Int {
    var rest = time - measureFrom
    guard let length = lengthNanoseconds else {
      var before: Int64 = 0
      for stage in stages {
        let span = stage.length.multipliedReportingOverflow(by: stage.count)
        if span.overflow || rest < span.partialValue {
          return Int(before + IntervalGrid.floor(rest, stage.length))
        }
        rest -= span.partialValue
        before += stage.count
      }
      return Int(before)
    }
    return Int(IntervalGrid.floor(rest, length))
  }

  /// When interval `number` begins; the first begins with the run.
  func start(of number: Int) -> Int64 {
    guard let length = lengthNanoseconds else {
      var start = measureFrom
      var rest = Int64(number)
      for stage in stages {
        let count = min(rest, stage.count)
        start += count * stage.length
        rest -= count
        if rest <= 0 { break }
      }
      return max(startNanoseconds, start)
    }
    return max(startNanoseconds, measureFrom + Int64(number) * length)
  }

  private static func floor(_ time: Int64, _ length: Int64) -> Int64 {
    time >= 0 ? time / length : -((length - 1 - time) / length)
  }
}
