// What a reserve may ask for besides its lines: other lines that would do (alternatives), and how few units would
// (minimums). A reserve without either looks at one flag, and at nothing else of this.
//
// The alternatives are tried one after the other, `lines` first, each as if it were all that was asked for
// (Transactions/FirstThatFits.swift): what is tried lies in `scratch.lines`, as all commands' lines do.
internal import Log

/// A line of an alternative, until it is tried.
struct AlternativeLine: BitwiseCopyable {
  var line: CommandLine
  /// 0: the whole quantity.
  var minimum: Int64
}

/// Of one reserve.
struct Alternatives: ~Copyable {
  /// There are alternatives or minimums.
  private(set) var isAsked = false
  /// Besides the command's own lines.
  private(set) var count = 0
  /// Lines of the alternatives, one behind the other, and behind them the command's own once they were tried.
  private let lines = FixedArray<AlternativeLine>(
    capacity: StoreLimits.linesOfAllMax + StoreLimits.linesMax,
    repeating: AlternativeLine(
      line: CommandLine(
        hash: 0, item: ItemName(sku: .empty, location: .empty), quantity: 0), minimum: 0))
  private var lineCount = 0
  /// Where each alternative's lines begin; behind the last one, those of the command itself.
  private var starts = InlineArray<10, Int>(repeating: 0)
  private var ownLineCount = 0
  /// Of the command's lines that are tried; all zero where none is asked for.
  private let minimums = FixedArray<Int64>(capacity: StoreLimits.linesMax, repeating: 0)

  /// Which is tried; 0: the command's own lines.
  private(set) var current = 0
  /// What is recorded and answered if none can be held; nil: not known yet.
  private(set) var refusal: RecordedRefusal?
  /// Of an unknown item: the command's line that names it.
  private(set) var unknownLine = 0
  /// What lacked units where that refusal was found, put by.
  var shortChanges = WriteSet(capacity: StoreLimits.changesMax)
  var shortOthers = RefusalList(capacity: StoreLimits.linesMax)
  /// The limit that was passed, likewise.
  var passedLimit = LimitText()

  /// While it is committed: some items of it may get less than is asked for.
  var takesLess = false
  /// Of each change: what would do, 0 for all of it, and what is asked for.
  let changeMinimums = FixedArray<Int64>(capacity: StoreLimits.linesMax, repeating: 0)
  let changeQuantities = FixedArray<Int64>(capacity: StoreLimits.linesMax, repeating: 0)
  /// What was chosen by the last commit.
  var choice = HoldChoice.asAsked

  func free() {
    lines.free()
    minimums.free()
    shortChanges.free()
    shortOthers.free()
    passedLimit.free()
    changeMinimums.free()
    changeQuantities.free()
  }

  /// As if nothing had been asked for.
  @inline(never)
  mutating func removeAll() {
    isAsked = false
    count = 0
    lineCount = 0
    current = 0
    refusal = nil
    takesLess = false
    choice = .asAsked
    for index in 0..<StoreLimits.linesMax { minimums[index] = 0 }
  }

  // MARK: What is asked for

  mutating func begin() -> Bool {
    isAsked = true
    guard count < StoreLimits.alternativesMax else { return false }
    starts[count] = lineCount
    count += 1
    starts[count] = lineCount
    return true
  }

  mutating func append(_ line: AlternativeLine) -> Bool {
    guard count > 0, lineCount < StoreLimits.linesOfAllMax,
      lineCount - starts[count - 1] < StoreLimits.linesMax
    else { return false }
    lines[lineCount] = line
    lineCount += 1
    starts[count] = lineCount
    return true
  }

  mutating func setMinimum(_ minimum: Int64, ofLine line: Int) {
    isAsked = true
    minimums[line] = minimum
  }

  /// Of a line that is tried: 0, the whole quantity.
  func minimum(ofLine line: Int) -> Int64 { minimums[line] }

  // MARK: What is tried

  /// Puts the command's own lines by: others take their place.
  mutating func keepOwn(_ own: FixedArray<CommandLine>, count ownCount: Int) {
    ownLineCount = ownCount
    for line in 0..<ownCount {
      lines[lineCount + line] = AlternativeLine(line: own[line], minimum: minimums[line])
    }
  }

  /// Fills `target` with the lines of alternative `number`, and the minimums with theirs. How many they are.
  mutating func load(_ number: Int, into target: FixedArray<CommandLine>) -> Int {
    current = number
    let start = number == 0 ? lineCount : starts[number - 1]
    let loaded = number == 0 ? ownLineCount : starts[number] - start
    for line in 0..<loaded {
      target[line] = lines[start + line].line
      minimums[line] = lines[start + line].minimum
    }
    return loaded
  }

  /// Whether `refusal`, of what is tried, is what is answered if none can be held, as far as is known: the first of
  /// one whose items are known, or else that items of the command's own lines are not.
  mutating func keep(_ refusal: RecordedRefusal, unknownLine line: Int) -> Bool {
    switch (self.refusal, refusal) {
    case (nil, .itemsNotFound): if current > 0 { return false } else { unknownLine = line }
    case (_, .itemsNotFound): return false
    case (nil, _), (.itemsNotFound, _): break
    default: return false
    }
    self.refusal = refusal
    return true
  }
}

extension StoreSession {
  /// Begins an alternative to the lines of the next reserve, behind those that there are: `appendToAlternative` adds
  /// its lines. False where StoreLimits.alternativesMax are there already.
  package func beginAlternative() -> Bool {
    assertInTurn()
    return scratch.alternatives.begin()
  }

  /// Adds a line to the alternative that was begun last. False where it has StoreLimits.linesMax, or all have
  /// StoreLimits.linesOfAllMax. Its bytes must stay as those of other lines.
  /// - Parameter minimum: so many units would do; 0: only all.
  package func appendToAlternative(_ line: LineRequest, minimum: Int64) -> Bool {
    let hash = core.keys.itemHash(line.item)
    core.index.prefetch(hash)
    return scratch.alternatives.append(
      AlternativeLine(
        line: CommandLine(hash: hash, item: line.item, quantity: line.quantity), minimum: minimum))
  }

  /// Of the line that was appended last, for the next reserve, as few units would do: 1 to its quantity.
  package func setMinimum(_ minimum: Int64) {
    precondition(scratch.lineCount > 0, "a minimum of no line")
    scratch.alternatives.setMinimum(minimum, ofLine: scratch.lineCount - 1)
  }

  /// Of the reserve that was refused last, for lack of units: how many alternatives were tried, its lines included;
  /// 0 where it had none besides.
  package var alternativesTried: Int { scratch.further.alternativesTried }
}

// MARK: Taking less, while items are read (Transaction.swift)

extension StoreSession {
  /// Says in the journal's record, which was begun, what was chosen.
  @inline(never)
  func writeChoice() {
    let choice = scratch.alternatives.choice
    if choice != .asAsked { scratch.record.append(.choice, byte: choice.rawValue) }
  }

  /// What the change at `index`, whose item has been read, lacks; nil where it has all that it needs.
  func shortage(_ index: Int) -> (requested: Int64, available: Int64)? {
    let lack = scratch.changes[index].lack
    guard scratch.alternatives.takesLess, let lack else { return lack }
    let minimum = scratch.alternatives.changeMinimums[index]
    if minimum == 0 { return lack }
    return lack.available >= minimum ? nil : (minimum, lack.available)
  }

  /// Lets the change at `index`, which lacks some of its units, be content with what is available. False where
  /// that would not do.
  func takeWhatIsAvailable(_ index: Int) -> Bool {
    guard scratch.alternatives.changeMinimums[index] > 0, shortage(index) == nil else {
      return false
    }
    let available = scratch.changes[index].before.available
    scratch.changes[index].required = available
    scratch.changes[index].heldChange =
      core.fault == .partialOverAvailable
      ? scratch.alternatives.changeQuantities[index] : available
    return true
  }

  /// Asks for everything again: what was read does not count any more.
  func askForAllAgain() {
    for index in 0..<scratch.changes.count {
      scratch.changes[index].required = scratch.alternatives.changeQuantities[index]
      scratch.changes[index].heldChange = scratch.alternatives.changeQuantities[index]
    }
  }
}
