// What load: a scenario, a file, and a flag for every field of a workload.
internal import ArgumentParser
internal import LoadKit
internal import LoadReport

/// Where a workload begins.
struct ScenarioFlags: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Begin with a named workload; `holdfast-load scenarios` lists them.", valueName: "name"))
  var scenario: String?
  @Option(
    help: ArgumentHelp(
      """
      Read the workload from this JSON file; - is standard input. Keys as --print-workload prints \
      them; what is missing is as in the scenario that it names.
      """, valueName: "file"))
  var workload: String?
}

/// A flag for every field of a workload, each overriding the scenario and the file.
struct WorkloadFlags: ParsableArguments {
  // MARK: How Reserves go out

  @Option(help: help("api")) var api: String?
  @Option(help: help("batch")) var batch: String?

  // MARK: Stock and carts

  @Option(
    help: ArgumentHelp(
      """
      Take items from this CSV file, a line each: sku,location,on_hand[,weight]; - is standard input. In the place of \
      --skus, --units and --hot-units, and where it has weights of --distribution.
      """, valueName: "file"))
  var skusFile: String?
  @Option(help: help("skus")) var skus: String?
  @Option(help: help("units")) var units: String?
  @Option(help: help("hot_units")) var hotUnits: String?
  @Option(help: help("distribution")) var distribution: String?
  @Option(help: help("hot_share")) var hotShare: String?
  @Option(help: help("lines")) var lines: String?
  @Option(help: help("quantity")) var quantity: String?

  // MARK: Choice and limits

  @Option(help: help("warehouses")) var warehouses: String?
  @Option(help: help("partial_share")) var partialShare: String?
  @Option(help: help("max_units")) var maxUnits: String?
  @Option(help: help("subjects")) var subjects: String?

  // MARK: Holds and their ends

  @Option(help: help("ttl_seconds")) var ttl: String?
  @Option(help: help("due_together_seconds")) var dueTogether: String?
  @Option(help: help("confirm_share")) var confirmShare: String?
  @Option(help: help("release_share")) var releaseShare: String?
  @Option(help: help("extend_share")) var extendShare: String?
  @Option(help: help("replace_share")) var replaceShare: String?
  @Option(help: help("change_time_seconds")) var changeTime: String?
  @Option(help: help("pay_time_seconds")) var payTime: String?
  @Option(help: help("think_time_seconds")) var thinkTime: String?

  // MARK: Stock as it is on the shelf

  @Option(help: help("overcommit")) var overcommit: String?
  @Option(help: help("keep_committed")) var keepCommitted: String?
  @Option(help: help("ship_share")) var shipShare: String?
  @Option(help: help("uncommit_share")) var uncommitShare: String?
  @Option(help: help("ship_time_seconds")) var shipTime: String?
  @Option(help: help("count_share")) var countShare: String?
  @Option(help: help("count_missing")) var countMissing: String?

  // MARK: Retries and cuts

  @Option(help: help("duplicate_share")) var duplicateShare: String?
  @Option(help: help("copies")) var copies: String?
  @Option(help: help("cut_share")) var cutShare: String?
  @Option(help: help("close_share")) var closeShare: String?
  @Option(help: help("retries_unknown")) var retriesUnknown: String?

  // MARK: Other calls

  @Option(help: help("read_share")) var readShare: String?
  @Option(help: help("restock_share")) var restockShare: String?
  @Option(help: help("restock_units")) var restockUnits: String?

  private var given: [(key: String, text: String?)] {
    [
      ("api", api), ("batch", batch), ("skus", skus), ("units", units), ("hot_units", hotUnits),
      ("distribution", distribution),
      ("hot_share", hotShare), ("lines", lines), ("quantity", quantity),
      ("warehouses", warehouses), ("partial_share", partialShare), ("max_units", maxUnits),
      ("subjects", subjects), ("ttl_seconds", ttl),
      ("due_together_seconds", dueTogether), ("confirm_share", confirmShare),
      ("release_share", releaseShare), ("extend_share", extendShare),
      ("replace_share", replaceShare), ("change_time_seconds", changeTime),
      ("overcommit", overcommit), ("keep_committed", keepCommitted), ("ship_share", shipShare),
      ("uncommit_share", uncommitShare), ("ship_time_seconds", shipTime),
      ("count_share", countShare), ("count_missing", countMissing),
      ("pay_time_seconds", payTime), ("think_time_seconds", thinkTime),
      ("duplicate_share", duplicateShare), ("copies", copies), ("cut_share", cutShare),
      ("close_share", closeShare), ("retries_unknown", retriesUnknown),
      ("read_share", readShare), ("restock_share", restockShare), ("restock_units", restockUnits),
    ]
  }

  /// The workload of a scenario and a file, overridden by the flags that were given.
  ///
  /// - Parameters:
  ///   - file: overrides the scenario, and may name one.
  ///   - operations: how many calls the run makes, by the scenario that it turned out to be; nil where
  ///     that is a matter of time.
  /// - Throws: one line that names the flag or the file's key, and what it must be.
  func workload(
    _ scenario: Scenario?, _ file: WorkloadFile?, operations: Int?
  ) throws(LoadError) -> Workload {
    var workload = scenario?.workload(operations: operations) ?? Workload()
    try file?.apply(to: &workload)
    for field in Workload.fields {
      guard let text = given.first(where: { $0.key == field.key })?.text else { continue }
      try field.set(text, in: &workload, name: field.flag)
    }
    if let skusFile {
      for (flag, value) in [("--skus", skus), ("--units", units), ("--hot-units", hotUnits)]
      where value != nil {
        throw LoadError("--skus-file goes without \(flag)")
      }
      let catalogue = try Catalogue(path: skusFile)
      if catalogue.weights != nil, distribution != nil {
        throw LoadError("--skus-file has weights, and goes without --distribution")
      }
      workload.catalogue = catalogue
      // What else the scenario says of SKU 0 is not the file's.
      workload.hotUnits = nil
      if case .hot(let count, _) = workload.distribution, count > workload.skuCount {
        workload.distribution = .uniform
      }
    }
    try workload.validate()
    return workload
  }

  /// "Lines of a cart. (N or A-B, within 1 to 64; default: 1)".
  private static func help(_ key: String) -> ArgumentHelp {
    guard let field = Workload.fields.first(where: { $0.key == key }) else { return "" }
    let value = field.text(Workload()).map { "; default: \($0)" } ?? ""
    return ArgumentHelp(
      "\(field.summary) (\(field.range)\(value))", valueName: field.valueName)
  }
}

extension ScenarioFlags {
  /// The scenario that --scenario or the file names, and the file.
  func read() throws(LoadError) -> (scenario: Scenario?, file: WorkloadFile?) {
    let named = try scenario.map { (name) throws(LoadError) in try Scenario.named(name) }
    let file = try workload.map { (path) throws(LoadError) in try WorkloadFile(path: path) }
    let inFile = try file?.namedScenario()
    if let named, let inFile, named.name != inFile.name {
      throw LoadError("--scenario \(named.name), but the file's is \(inFile.name)")
    }
    return (named ?? inFile, file)
  }
}

/// Lists the named workloads.
struct ScenariosCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "scenarios",
    abstract: "Lists the named workloads, a paragraph each.",
    discussion: "All of one's numbers: holdfast-load run --scenario NAME --print-workload")

  func run() {
    for scenario in Scenario.all {
      let length = scenario.operations.map {
        " \(Text.counted($0, "call")), where nothing else is asked for."
      }
      print(scenario.name)
      print(ScenariosCommand.paragraph(scenario.sentence + (length ?? "")))
    }
  }

  /// Lines of at most 80 columns, indented.
  private static func paragraph(_ text: String) -> String {
    var lines = [" "]
    for word in text.split(separator: " ") {
      if lines[lines.count - 1].count + 1 + word.count > 80 { lines.append(" ") }
      lines[lines.count - 1] += " " + word
    }
    return lines.joined(separator: "\n")
  }
}
