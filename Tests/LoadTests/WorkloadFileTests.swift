import LoadReport
import Testing

@testable import LoadKit

@Suite struct WorkloadFileTests {
  private func read(_ json: String) throws -> Workload {
    let file = try WorkloadFile(Array(json.utf8), name: "f.json")
    var workload = try file.namedScenario()?.workload(operations: nil) ?? Workload()
    try file.apply(to: &workload)
    try workload.validate()
    return workload
  }

  /// What is printed is what is read, field by field.
  @Test(arguments: Scenario.all.map(\.name))
  func printedIsRead(name: String) throws {
    let workload = try Scenario.named(name).workload(operations: 50_000)
    try workload.validate()
    #expect(try read(workload.json) == workload)
  }

  @Test func everyFieldIsPrintedAndRead() throws {
    let workload = try read(
      """
      { "api": "stream", "batch": 12, "overcommit": 9, "keep_committed": true, "ship_share": 0, "uncommit_share": 0.3,
        "ship_time_seconds": "7ms", "count_share": 0, "count_missing": "1-2", "replace_share": 0.4, "change_time_seconds": "5ms", "skus": 7, "units": 8, "hot_units": 9, "distribution": "hot:2:0.25", "hot_share": 0.125,
        "lines": "2-3", "quantity": "4-5", "max_units": 6, "subjects": 70, "ttl_seconds": "1.5-90", "due_together_seconds": "2m",
        "confirm_share": 0.5, "release_share": 0.25, "extend_share": 0.75,
        "pay_time_seconds": "20ms-0.2", "think_time_seconds": "1ms", "duplicate_share": 0.2,
        "copies": "3-4", "cut_share": 0.01, "close_share": 0.001, "retries_unknown": true,
        "read_share": 0.3, "restock_share": 0.1, "restock_units": 6, "comment": "all of them" }
      """)
    // What goes without others that are set here.
    let without = ["count_share", "warehouses", "partial_share"]
    for field in Workload.fields where !without.contains(field.key) {
      #expect(field.text(workload) != field.text(Workload()), "\(field.key) was not read")
    }
    #expect(workload.timeToLiveNanoseconds == 1_500_000_000...90_000_000_000)
    #expect(workload.payTimeNanoseconds == 20_000_000...200_000_000)
    #expect(workload.dueTogetherNanoseconds == 120_000_000_000)
    #expect(workload.distribution == .hot(count: 2, share: 0.25))
    #expect(workload.stock == [9, 8, 8, 8, 8, 8, 8])
    #expect(try read(workload.json) == workload)
  }

  @Test func aScenarioIsOverridden() throws {
    let workload = try read(#"{"scenario": "carts", "skus": 1e3, "quantity": "7"}"#)
    #expect(workload.scenario == "carts")
    #expect(workload.skuCount == 1_000)
    #expect(workload.quantity == 7...7)
    #expect(workload.lines == 1...10)
  }

  private static let refused: [(json: String, message: String)] = [
    ("", "f.json is not valid JSON"), ("{", "f.json is not valid JSON"),
    ("[]", "f.json must be a JSON object"), ("5", "f.json must be a JSON object"),
    (#"{"sku": 1}"#, "f.json: 'sku' is no key of a workload"),
    ("{\"a\\u001b\": 1}", "f.json: 'a"),
    (#"{"scenario": 5}"#, "f.json: scenario must be the name of one, not 5"),
    (#"{"scenario": "x"}"#, "f.json: there is no scenario 'x'; there are flash-sale, tickets"),
    (#"{"skus": null}"#, "f.json: skus must be 1 to 10000000"),
    (#"{"skus": 0}"#, "f.json: skus must be 1 to 10000000, not '0'"),
    (#"{"skus": 1.5}"#, "f.json: skus must be 1 to 10000000, not '1.5'"),
    (#"{"units": true}"#, "f.json: units must be 0 to 2^40, not 'true'"),
    (#"{"units": 1e300}"#, "f.json: units must be 0 to 2^40"),
    (#"{"quantity": [1]}"#, "f.json: quantity must be N or A-B, within 1 to 1000000"),
    (#"{"lines": "3-2"}"#, "f.json: lines must be N or A-B, within 1 to 64, not '3-2'"),
    (#"{"lines": "1-65"}"#, "f.json: lines must be"), (#"{"lines": "1-2-3"}"#, "f.json: lines"),
    (#"{"ttl_seconds": 0.5}"#, "f.json: ttl_seconds must be N or A-B seconds"),
    (#"{"ttl_seconds": "1-90000"}"#, "f.json: ttl_seconds must be"),
    (#"{"ttl_seconds": "1y"}"#, "f.json: ttl_seconds must be"),
    (#"{"due_together_seconds": 0}"#, "f.json: due_together_seconds must be 1 to 86400"),
    (#"{"hot_share": 1.1}"#, "f.json: hot_share must be 0 to 1, not '1.1'"),
    (#"{"hot_share": "nan"}"#, "f.json: hot_share must be 0 to 1, not 'nan'"),
    (#"{"retries_unknown": 1}"#, "f.json: retries_unknown must be true or false, not '1'"),
    (#"{"copies": 1}"#, "f.json: copies must be N or A-B, within 2 to 16"),
    (#"{"distribution": "hot:0:1"}"#, "f.json: distribution must be single"),
    (#"{"distribution": "hot:5:0.5"}"#, "--distribution names 5 hot SKUs of 1"),
    (#"{"confirm_share": 0.8}"#, "--confirm-share and --release-share"),
    (
      #"{"read_share": 0.8, "restock_share": 0.3}"#,
      "--read-share, --restock-share and --count-share"
    ),
  ]

  @Test(arguments: refused.indices)
  func whatIsWrongIsNamed(index: Int) {
    let (json, message) = Self.refused[index]
    let error = #expect(throws: LoadError.self) { _ = try read(json) }
    let text = error?.description ?? ""
    #expect(text.hasPrefix(message))
    #expect(!text.contains { $0.isNewline || $0 == "\u{1b}" }, "one line, nothing for a terminal")
  }

  @Test func anEndlessFileIsRefused() {
    let error = #expect(throws: LoadError.self) { _ = try WorkloadFile(path: "/dev/zero") }
    #expect(error?.description == "/dev/zero is too long for a workload")
  }

  @Test(arguments: ["/", "/nowhere/at-all.json"])
  func aFileThatCannotBeRead(path: String) {
    let error = #expect(throws: LoadError.self) { _ = try WorkloadFile(path: path) }
    #expect(error?.description.hasPrefix("cannot read the workload \(path): ") == true)
  }

  /// Whatever is accepted means what it says when it is printed, and nothing traps.
  @Test(arguments: [1, 2, 3] as [UInt64])
  func anyTextIsReadOrRefused(seed: UInt64) throws {
    let pieces = [
      "0", "1", "7", "99", "1e9", "-", "/", ",", ".", ":", "s", "ms", "h", "hot", "zipf",
    ]
    var random = Random(seed: seed)
    for _ in 0..<3_000 {
      let length = random.within(1...7)
      let text = (0..<length).map { _ in pieces[random.within(0...pieces.count - 1)] }.joined()
      if let profile = LoadProfile(text) {
        #expect(LoadProfile(profile.description) == profile, "\(text)")
      }
      for field in Workload.fields {
        var workload = Workload()
        guard (try? field.set(text, in: &workload, name: field.key)) != nil else { continue }
        var again = Workload()
        try field.set(field.text(workload) ?? "", in: &again, name: field.key)
        #expect(again == workload, "\(field.key): \(text)")
      }
    }
  }

  /// The repository's own files.
  @Test(arguments: ["contention-low", "contention-extreme", "contention-carts", "example"])
  func filesOfTheRepository(name: String) throws {
    let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    let file = try WorkloadFile(path: "/\(root)/LoadTest/workloads/\(name).json")
    var workload = try file.namedScenario()?.workload(operations: nil) ?? Workload()
    try file.apply(to: &workload)
    try workload.validate()
    #expect(workload != Workload())
  }
}

@Suite struct ScenarioTests {
  @Test func flashSaleHasAUnitForEveryHundredCalls() throws {
    let sale = try Scenario.named("flash-sale")
    #expect(sale.operations == 10_000)
    #expect(sale.workload(operations: nil).stock == [100])
    #expect(sale.workload(operations: 1_000_000).stock == [10_000])
    #expect(sale.workload(operations: 7).stock == [1])
  }

  @Test func namesAndSentences() {
    #expect(
      Scenario.all.map(\.name) == [
        "flash-sale", "tickets", "carts", "checkout", "retry-storm", "expiry-storm", "mixed",
        "cart-changes", "preorder", "warehouses", "per-customer", "count", "batch", "stream",
      ])
    for scenario in Scenario.all {
      #expect(scenario.sentence.hasSuffix("."))
      #expect(scenario.workload(operations: nil).scenario == scenario.name)
    }
    let error = #expect(throws: LoadError.self) { _ = try Scenario.named("x\u{1b}") }
    #expect(error?.description.hasSuffix("count, batch, stream") == true)
  }
}
