// What each subject has of one SKU, by the same bounds as SKUCheck's: a reserve with a limit is never accepted where
// its subject surely has too much, and never refused for it where the subject cannot have had too much.

struct LimitCheck {
  /// More than any of its reserves allowed was surely a subject's at once.
  struct Passed {
    let subject: UInt32
    let units: Int64
    let maxUnits: Int64
    /// Those that it had then.
    let holds: [Hold]
  }

  /// One subject's holds, and what they add up to over time.
  private struct Subject {
    var holds: [Hold] = []
    /// Units that are held or sold: a sale never gives back.
    var used = Bracket()
  }

  private var subjects: [UInt32: Subject] = [:]

  init(_ history: SKUHistory) {
    for hold in history.holds {
      guard let limit = hold.limit else { continue }
      var subject = subjects[limit.subject] ?? Subject()
      subject.holds.append(hold)
      if let sure = hold.surelyTaken {
        subject.used.least.add(hold.units, from: sure.from, until: sure.until)
      }
      let possible = hold.possiblyTaken
      subject.used.most.add(hold.units, from: possible.from, until: possible.until)
      subjects[limit.subject] = subject
    }
  }

  func holds(of limit: SubjectLimit?) -> [Hold] {
    limit.flatMap { subjects[$0.subject]?.holds } ?? []
  }

  /// Subjects that had too much. Of what was theirs at one instant, the reserve that was accepted last has allowed
  /// all of it.
  var passed: [Passed] {
    var passed: [Passed] = []
    for (number, subject) in subjects {
      let peak = subject.used.least.peak()
      let atOnce = subject.holds.filter { hold in
        guard let sure = hold.surelyTaken else { return false }
        return sure.from <= peak.time && peak.time < sure.until
      }
      let most = atOnce.compactMap { $0.limit.map { Int64($0.maxUnits) } }.max() ?? .max
      if peak.units > most {
        passed.append(
          Passed(subject: number, units: peak.units, maxUnits: most, holds: atOnce))
      }
    }
    return passed.sorted { $0.subject < $1.subject }
  }

  /// What is wrong with a refusal; nil if nothing is.
  /// - Parameter atMost: how many units can have been available at some instant of its call.
  func problem(_ refusal: RefusedByLimit, atMost available: Int64) -> String? {
    if available < refusal.units {
      return "when at most \(available) can have been available: INSUFFICIENT_STOCK comes first"
    }
    guard let limit = refusal.limit else { return nil }
    let used =
      subjects[limit.subject]?.used.range(from: refusal.from, through: refusal.to) ?? 0...0
    let room = Int64(limit.maxUnits) - refusal.units
    if used.upperBound <= room {
      return
        "when subject \(limit.subject) can have had at most \(used.upperBound) of \(limit.maxUnits)"
    }
    guard let stated = refusal.used else { return nil }
    if stated <= room { return "though it says that \(stated) of \(limit.maxUnits) are used" }
    if used.contains(stated) { return nil }
    return "with \(stated) used, when it was \(SKUCheck.text(used))"
  }
}
