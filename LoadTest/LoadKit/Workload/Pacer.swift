// The schedule of an open loop: when each call is due, whatever the server does meanwhile. Pure
// arithmetic, no clock.

/// How the calls of an open loop are spread.
package enum Arrivals: String, CaseIterable, Sendable {
  /// At even distances.
  case constant
  /// Independent of each other, as customers are: a Poisson process of the profile's rate.
  case poisson
}

/// Goes through the calls of a load profile that are one worker's, in the order of time. A copy is a
/// second cursor that goes through the same ones.
///
/// - Constant: of all calls, numbered from 0, worker w of k sends w, w + k, w + 2k and so on, each at
///   the time at which so many are due.
/// - Poisson: the sum of exponential draws with mean 1 is a Poisson process of rate 1; read off as
///   calls due, by the profile's own clock, it becomes one of the profile's rate. Each worker has its
///   own, of 1/k of the rate; together they are one of all of it.
///
/// Positions are numbers of calls (below 10^12) and times are nanoseconds since the start (below
/// 10^14), each computed afresh in 53 bits: nothing adds up, nothing drifts.
package struct Pacer: Sendable {
  /// When the next call is due; `Int64.max` after the last.
  package private(set) var scheduledNanoseconds: Int64 = .max
  /// How many calls were gone past.
  package private(set) var count = 0

  private let profile: LoadProfile
  private let arrivals: Arrivals
  private let startNanoseconds: Int64
  private let worker: Int
  private let workers: Int
  private var random: Random
  /// The place in the profile, counted in calls of all workers.
  private var position = 0.0
  private var segment = 0

  /// - Parameters:
  ///   - profile: of all workers together.
  ///   - startNanoseconds: when the profile begins.
  ///   - worker: which of the `workers` this is, from 0.
  ///   - seed: of the draws; a worker's own.
  package init(
    profile: LoadProfile, arrivals: Arrivals, startNanoseconds: Int64, worker: Int, workers: Int,
    seed: UInt64
  ) {
    self.profile = profile
    self.arrivals = arrivals
    self.startNanoseconds = startNanoseconds
    self.worker = worker
    self.workers = workers
    random = Random(seed: seed)
    schedule()
  }

  /// Goes past the next call.
  package mutating func advance() {
    count += 1
    schedule()
  }

  private mutating func schedule() {
    switch arrivals {
    case .constant: position = Double(count * workers + worker)
    case .poisson: position += random.exponential() * Double(workers)
    }
    while segment < profile.segments.count, position >= profile.segments[segment].endCalls {
      segment += 1
    }
    guard segment < profile.segments.count else {
      scheduledNanoseconds = .max
      return
    }
    let seconds = profile.segments[segment].seconds(at: position)
    scheduledNanoseconds = startNanoseconds + Int64((seconds * 1e9).rounded())
  }
}
