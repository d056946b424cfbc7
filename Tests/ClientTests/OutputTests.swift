// What a person and a program see: tables, lines between tabs, JSON.
import Foundation
import Testing

@testable import Client

@Suite struct TableTests {
  private let columns = [
    TableColumn("SKU"), TableColumn("LINES", .flexible), TableColumn("UNITS", isNumber: true),
    TableColumn("VERSION", isNumber: true, .optional),
  ]
  private let rows: [[TableCell]] = [
    ["ticket", "a=1 b=2", TableCell(100), "7"], ["mug", "c=3", TableCell(-5, .bad), "12"],
  ]

  private func lines(_ terminal: Int, colours: Bool = false) -> [String] {
    let table = TextTable(columns, for: rows, terminalColumns: terminal, hasColours: colours)
    return [table.header] + rows.map(table.row)
  }

  @Test func columnsAreAligned() {
    #expect(
      lines(80) == [
        "SKU     LINES    UNITS  VERSION", "ticket  a=1 b=2    100        7",
        "mug     c=3         -5       12",
      ])
  }

  @Test func aNarrowTerminalLosesWhatItCanDoWithout() {
    #expect(
      lines(22) == ["SKU     LINES    UNITS", "ticket  a=1 b=2    100", "mug     c=3         -5"])
  }

  @Test func flexibleCellsAreCut() {
    let wide: [[TableCell]] = [["ticket", "aaaaaaaaaaaaaaaaaaaa", TableCell(1), "7"]]
    let table = TextTable(columns, for: wide, terminalColumns: 25, hasColours: false)
    #expect(table.row(wide[0]) == "ticket  aaaaaaaaa…      1")
  }

  @Test func idsAreNeverCut() {
    let table = TextTable(columns, for: rows, terminalColumns: 5, hasColours: false)
    #expect(
      table.row(["a-very-long-sku-indeed", "", TableCell(1), ""]).hasPrefix(
        "a-very-long-sku-indeed"))
  }

  @Test func coloursStandAroundTheText() {
    #expect(lines(22, colours: true).last == "mug     c=3         \u{1b}[31m-5\u{1b}[0m")
    #expect(lines(22, colours: true).first?.hasPrefix("\u{1b}[1mSKU\u{1b}[0m     ") == true)
  }

  @Test func whatWouldSteerATerminalDoesNot() {
    let hostile: [[TableCell]] = [["\u{1b}[31mred\u{7}", "a\nb\tc", TableCell(1), "\u{202e}"]]
    let table = TextTable(columns, for: hostile, terminalColumns: 80, hasColours: false)
    #expect(
      !table.row(hostile[0]).unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x202e })
    #expect(
      TextTable.plain(hostile[0]) == "\u{FFFD}[31mred\u{FFFD}\ta\u{FFFD}b\u{FFFD}c\t1\t\u{FFFD}")
  }

  @Test(arguments: [("abc", 3), ("日本", 4), ("e\u{301}", 1), ("🎫", 2), ("", 0)])
  func widthsAreThoseOfATerminal(_ text: String, _ width: Int) {
    #expect(PlainText.width(text) == width)
  }

  @Test(arguments: [
    ("abcdef", 6, "abcdef"), ("abcdef", 4, "abc…"), ("日本語", 4, "日…"), ("日本語", 5, "日本…"),
  ])
  func textIsCut(_ text: String, _ columns: Int, _ cut: String) {
    #expect(PlainText.cut(text, to: columns) == cut)
  }

  @Test func plainLinesHaveNamesInLowerCase() {
    #expect(
      TextTable.plainHeader(StockLevel.columns)
        == "sku\tlocation\ton_hand\theld\tcommitted\tsafety_stock\tavailable\tversion\tsale")
    #expect(
      TextTable.plainHeader(Reservation.columns)
        == "reservation_id\tstate\treference\tlines\texpires_at\tended_at\tcreated_at\trevision")
    #expect(
      TextTable.plainHeader(Event.columns)
        == "decided_at\tlsn\tkind\treservation_id\treference\tlines\tavailable\tcaller\treason")
  }

  @Test(arguments: [(Int64(0), "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "-1,234,567")])
  func countsAreGrouped(_ number: Int64, _ text: String) {
    #expect(PlainText.count(number) == text)
  }
}

@Suite struct JSONTests {
  @Test func everyKeyIsThereInItsOrder() {
    var level = StockLevel()
    level.item = ItemName(sku: "a\"b\\", location: "oslo")
    level.onHand = 1_099_511_627_776
    level.safetyStock = -1
    level.available = level.onHand + 1
    level.version = .max
    var sale = SaleWindow()
    sale.from = Instant("2026-11-29T03:00:00.5Z")
    sale.isFrozen = true
    level.sale = sale
    #expect(
      level.json.line == """
        {"sku":"a\\"b\\\\","location":"oslo","on_hand":1099511627776,"held":0,"committed":0,"safety_stock":-1,\
        "available":1099511627777,"version":"18446744073709551615",\
        "sale":{"sellable_from":"2026-11-29T03:00:00.500Z","sellable_until":null,"frozen":true}}
        """)
  }

  @Test func anEventHasItsTokenWhereItEndsAMessage() {
    var event = Event()
    event.lsn = 9_007_199_254_740_993
    event.kind = EventKind(rawValue: 1)
    event.lines = [ReservationLine(ItemName(sku: "a"), 2)]
    #expect(
      event.json(resumeToken: nil).line == """
        {"lsn":"9007199254740993","kind":"HELD","decided_at":null,"reservation_id":"","reference":"",\
        "lines":[{"sku":"a","location":"","quantity":2}],"expires_at":null,"stock":[],"caller":"",\
        "idempotency_key":"","reason":"","resume_token":null}
        """)
    #expect(event.json(resumeToken: "t").line.hasSuffix("\"resume_token\":\"t\"}"))
  }

  @Test func textIsEscaped() throws {
    let text = "\u{0}\u{1b}[31m\n\t\"\\\u{7f}\u{9b}\u{2028}é🎫"
    var line = JSONLine()
    line.add("k", text)
    #expect(line.line.utf8.allSatisfy { $0 >= 0x20 })
    #expect(
      !line.line.unicodeScalars.contains { (0x7f..<0xa0).contains($0.value) || $0.value == 0x2028 })
    let object = try JSONSerialization.jsonObject(with: Data(line.line.utf8)) as? [String: String]
    #expect(object == ["k": text])
  }

  @Test func namesOfNewerServersAreNumbers() {
    #expect(EventKind(rawValue: 99).name == "KIND_99")
    #expect(ReservationState(rawValue: .max).name == "STATE_18446744073709551615")
    #expect(EventKind(name: "Held")?.rawValue == 1 && EventKind(name: "unspecified") == nil)
  }
}
