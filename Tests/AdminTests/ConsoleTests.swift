// The console's pages without sockets: who gets what, by which fields, and what streams say.
import Bytes
import Metrics
import Posix
import Synchronization
import Testing

@testable import Admin

private let second: Int64 = 1_000_000_000

extension ConsoleLimits {
  fileprivate static let test = ConsoleLimits(
    subscribersMax: 2, sessionsMax: 2, sessionNanosecondsMax: 3600 * second, lookupsMax: 2,
    lookupNanosecondsMax: 5 * second, heartbeatNanoseconds: 15 * second, formBytesMax: 256)
}

/// A console, and one request after the other to its pages.
private final class Visitor {
  let console: Console
  let pages: ConsolePages

  init(_ rule: ConsoleRule, isTLS: Bool = false) {
    console = Console(rule: rule, limits: .test)
    pages = ConsolePages(console, port: 7421, isTLS: isTLS)
    console.publish(
      .object([("now", .int(1))]), lines: [("State", "<ready>")],
      past: .object([("held", .list([]))]))
  }

  func get(_ target: String, _ fields: String = "Host: localhost", method: String = "GET") throws
    -> AdminResponse
  {
    let head = "\(method) \(target) HTTP/1.1\r\n\(fields)\r\n\r\n"
    let request = try RequestParser.parse(Array(head.utf8)[...])
    return try #require(pages.response(to: request))
  }

  func post(_ target: String, _ body: String, _ fields: String = "Host: localhost") throws
    -> AdminResponse
  {
    let head = "POST \(target) HTTP/1.1\r\n\(fields)\r\nContent-Length: \(body.utf8.count)\r\n\r\n"
    var request = try RequestParser.parse(Array(head.utf8)[...])
    request.body = Array(body.utf8)
    return try #require(pages.response(to: request))
  }
}

extension AdminResponse {
  fileprivate var text: String {
    if case .bytes(let bytes) = body { String(decoding: bytes, as: UTF8.self) } else { "" }
  }

  fileprivate var stream: (any ResponseStream)? {
    if case .stream(let stream) = body { stream } else { nil }
  }

  fileprivate func field(_ name: String) -> String? { fields.first { $0.name == name }?.value }
}

private let anybody = ConsoleRule.anybody(hosts: ["shop.example", "10.0.0.9"])

/// `admin` is a token of an administrator, `reader` one that may read.
private func tokens(_ holds: @escaping @Sendable () -> Bool = { true }) -> ConsoleRule {
  .tokens { token in
    switch token {
    case "admin+&=%": .granted(ConsoleGrant(caller: "<ops>", holds: holds))
    case "reader": .refused("This token has the role read.")
    default: .refused("This token is not known.")
    }
  }
}

private let encoded = "token=admin%2B%26%3D%25"

@Suite struct ConsoleTests {
  @Test(
    "Without tokens the console is shown under addresses and our names alone",
    arguments: [
      ("localhost", true), ("localhost:7421", true), ("LOCALHOST.", true), ("a.localhost:1", true),
      ("127.0.0.1:7421", true), ("[::1]:7421", true), ("192.168.1.4", true),
      ("shop.example:80", true),
      ("SHOP.EXAMPLE", true), ("10.0.0.9", true),
      ("evil.example", false), ("evil.example:7421", false), ("127.0.0.1.evil.example", false),
      ("1.2.3.4.5", false), ("1.2.3.a", false), ("", false), ("localhost.evil.example", false),
      ("a:b:c", false), ("1..2.3", false), ("notlocalhost", false),
    ])
  func hosts(host: String, isShown: Bool) throws {
    let visitor = Visitor(anybody)
    for path in ["/console", "/console/state", "/console/events", "/console/stock?sku=a"] {
      #expect(
        try visitor.get(path, "Host: \(host)").status == (isShown ? .ok : .misdirectedRequest))
    }
  }

  @Test(
    "Without tokens nobody is shown on a network what no other port shows there",
    arguments: [
      (true, true, true), (true, false, true), (false, true, true), (false, false, false),
    ])
  func withoutTokens(isPortLocal: Bool, areCallsOpen: Bool, isShown: Bool) throws {
    let rule = ConsoleRule.withoutTokens(
      isPortLocal: isPortLocal, areCallsOpen: areCallsOpen, hosts: [])
    let response = try Visitor(rule).get("/console")
    #expect(response.status == (isShown ? .ok : .forbidden))
    #expect(isShown || response.text.contains("--tokens"))
  }

  @Test("Where it is for nobody, every page says why")
  func nobody() throws {
    let visitor = Visitor(.nobody("not here"))
    for path in ["/console", "/console/login", "/console/console.js", "/console/x"] {
      let response = try visitor.get(path)
      #expect(response.status == .forbidden && response.text == "not here\n")
    }
    #expect(try visitor.post("/console/login", "token=a").status == .forbidden)
  }

  @Test("Every response keeps scripts of others and frames out")
  func policy() throws {
    for rule in [anybody, tokens(), .nobody("no")] {
      let visitor = Visitor(rule)
      for path in ["/console", "/console/login", "/console/state", "/console/none"] {
        let response = try visitor.get(path)
        #expect(response.policy.contains("default-src 'none'"))
        #expect(response.policy.contains("script-src 'self';"))
        #expect(response.policy.contains("frame-ancestors 'none'"))
        #expect(!response.policy.contains("unsafe"))
        #expect(response.field("X-Frame-Options") == "DENY")
      }
    }
  }

  @Test("No page has a script, a style or a handler in it that the policy would not let run")
  func nothingInline() {
    for page in [ConsoleHTML.text, ConsoleLoginHTML.text] {
      #expect(!page.contains("<script>") && !page.contains("<style") && !page.contains(" style="))
      #expect(
        !page.contains(" onclick=") && !page.contains(" onload=") && !page.contains("javascript:"))
      #expect(!page.contains("http://") || page.contains("xmlns='http://www.w3.org/2000/svg'"))
      #expect(!page.contains("https://"))
    }
    for word in [
      "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
      "https://",
    ] {
      #expect(!ConsoleScript.text.contains(word))
    }
  }

  @Test(
    "With tokens a page asks for one, and data without one is refused",
    arguments: [
      ("/console", Status.seeOther), ("/console/login", .ok), ("/console/console.js", .ok),
      ("/console/console.css", .ok), ("/console/state", .unauthorized),
      ("/console/events", .unauthorized),
      ("/console/stock?sku=a", .unauthorized), ("/console/reservation?id=a", .unauthorized),
      ("/console/none", .unauthorized),
    ])
  func withoutToken(path: String, status: Status) throws {
    let visitor = Visitor(tokens())
    // Any name will do: no cookie comes along with a stranger's.
    #expect(try visitor.get(path, "Host: evil.example").status == status)
    if status == .unauthorized {
      #expect(try visitor.get(path).field("WWW-Authenticate") == "Bearer")
    }
  }

  @Test(
    "A program shows its token in Authorization",
    arguments: [
      ("Bearer admin+&=%", Status.ok), ("bearer admin+&=%", .ok), ("Bearer reader", .unauthorized),
      ("Bearer nobody", .unauthorized), ("Basic admin", .unauthorized),
      ("admin+&=%", .unauthorized),
      ("Bearer ", .unauthorized),
    ])
  func bearer(authorization: String, status: Status) throws {
    let visitor = Visitor(tokens())
    let response = try visitor.get("/console/state", "Host: x\r\nAuthorization: \(authorization)")
    #expect(response.status == status)
  }

  @Test(
    "A browser gets a cookie for its token, which holds until it signs out",
    arguments: [false, true])
  func session(isTLS: Bool) throws {
    let visitor = Visitor(tokens(), isTLS: isTLS)
    let response = try visitor.post("/console/login", encoded)
    #expect(response.status == .seeOther && response.field("Location") == "/console")
    let cookie = try #require(response.field("Set-Cookie"))
    #expect(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"))
    #expect(cookie.contains("; Path=/console") && cookie.contains("; Max-Age=3600"))
    #expect(cookie.hasSuffix("; Secure") == isTLS)
    #expect(cookie.hasPrefix("holdfast_console_7421="))
    let sent = String(cookie.prefix { $0 != ";" })
    #expect(!sent.contains("admin") && sent.utf8.count == "holdfast_console_7421=".utf8.count + 48)
    let page = try visitor.get("/console", "Host: x\r\nCookie: a=b; \(sent)")
    #expect(
      page.status == .ok && page.text.contains("&lt;ops&gt;") && page.text.contains("Sign out"))
    #expect(
      try visitor.get("/console/state", "Host: x\r\nCookie: a=b\r\nCookie: \(sent)").status == .ok)
    #expect(
      try visitor.get("/console/state", "Host: x\r\nCookie: \(sent)0").status == .unauthorized)
    let altered = sent.dropLast() + (sent.hasSuffix("0") ? "1" : "0")
    #expect(
      try visitor.get("/console/state", "Host: x\r\nCookie: \(altered)").status == .unauthorized)
    let out = try visitor.post("/console/logout", "", "Host: x\r\nCookie: \(sent)")
    #expect(out.status == .seeOther && out.field("Set-Cookie")?.contains("Max-Age=0") == true)
    #expect(try visitor.get("/console/state", "Host: x\r\nCookie: \(sent)").status == .unauthorized)
    #expect(visitor.console.sessions.count == 0)
  }

  @Test("A session ends with its token, and so does the stream that it has opened")
  func revoked() throws {
    let shared = SharedFlag()
    let visitor = Visitor(tokens { shared.value })
    let cookie = try #require(try visitor.post("/console/login", encoded).field("Set-Cookie"))
    let sent = String(cookie.prefix { $0 != ";" })
    let stream = try #require(
      try visitor.get("/console/events", "Host: x\r\nCookie: \(sent)").stream)
    let now = SystemClock.monotonicNanoseconds()
    guard case .bytes = stream.next(nowNanoseconds: now) else {
      return #expect(Bool(false), "nothing said")
    }
    shared.value = false
    guard case .end = stream.next(nowNanoseconds: now + 3 * second) else {
      return #expect(Bool(false), "the stream goes on")
    }
    #expect(try visitor.get("/console/state", "Host: x\r\nCookie: \(sent)").status == .unauthorized)
  }

  @Test("The oldest session goes where there are too many, and each ends with its time")
  func sessions() {
    let sessions = ConsoleSessions(sessionsMax: 2, lifetimeNanoseconds: 10)
    let grant = ConsoleGrant(caller: "a") { true }
    let ids = (0..<3).map { sessions.begin(grant, nowNanoseconds: Int64($0)) }
    #expect(Set(ids).count == 3)
    #expect(ids.map { sessions.grant($0, nowNanoseconds: 3) != nil } == [false, true, true])
    #expect(ids.map { sessions.grant($0, nowNanoseconds: 11) != nil } == [false, false, true])
    #expect(sessions.count == 1)
  }

  @Test(
    "A token that is no administrator's is told why, and no markup comes of it",
    arguments: [
      ("token=reader", "role read"), ("token=", "A token is needed."), ("", "A token is needed."),
      ("x=admin", "A token is needed."), ("token=%zz", "A token is needed."),
      ("token=%ff", "A token is needed."),
      ("token=%3Cscript%3E", "not known"), ("token=admin+%26%3D%25", "not known"),
    ])
  func badLogin(form: String, says: String) throws {
    let visitor = Visitor(tokens())
    let response = try visitor.post("/console/login", form)
    #expect(response.status == .unauthorized && response.text.contains(says))
    #expect(response.field("Set-Cookie") == nil && !response.text.contains("{{"))
  }

  @Test(
    "A form of another site's page changes nothing",
    arguments: [
      ("Origin: https://evil.example", false), ("Origin: null", false),
      ("Sec-Fetch-Site: cross-site", false),
      ("Sec-Fetch-Site: same-site", false), ("Origin: http://localhost.evil", false),
      ("Origin: http://localhost:7421\r\nOrigin: http://localhost:7421", false),
      ("Origin: http://localhost:7421", true),
      ("Origin: https://LOCALHOST:7421\r\nSec-Fetch-Site: same-origin", true),
      ("Sec-Fetch-Site: none", true), ("X: y", true),
      // Behind a proxy that puts its own Host there.
      ("Origin: https://shop.example\r\nSec-Fetch-Site: same-origin", true),
    ])
  func origins(fields: String, isTaken: Bool) throws {
    let visitor = Visitor(tokens())
    for path in ["/console/login", "/console/logout"] {
      let response = try visitor.post(path, encoded, "Host: localhost:7421\r\n\(fields)")
      #expect(response.status == (isTaken ? .seeOther : .forbidden))
    }
  }

  @Test(
    "Other methods and paths",
    arguments: [
      ("PUT", "/console", Status.methodNotAllowed), ("POST", "/console", .methodNotAllowed),
      ("POST", "/console/state", .methodNotAllowed), ("GET", "/console/none", .notFound),
      ("GET", "/console/", .notFound), ("HEAD", "/console", .ok),
      ("GET", "/console/stock", .badRequest),
      ("GET", "/console/stock?sku=", .badRequest), ("GET", "/console/reservation", .badRequest),
      ("GET", "/console/stock?sku=%zz", .badRequest), ("GET", "/console/login", .seeOther),
    ])
  func paths(method: String, path: String, status: Status) throws {
    #expect(try Visitor(anybody).get(path, method: method).status == status)
  }

  @Test("A page without scripts shows the state, escaped")
  func plain() throws {
    let text = try Visitor(anybody).get("/console").text
    #expect(text.contains("<th scope=\"row\">State</th><td>&lt;ready&gt;</td>"))
    #expect(!text.contains("{{") && !text.contains("Sign out"))
  }

  @Test(
    "No text becomes a tag, ends an attribute or is a place of a template, whatever stands behind its signs",
    arguments: [
      ("<b a=\"x\" c='y'>&amp;", "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;amp;"),
      ("\"\u{301}<\u{338}&\u{301}", "&quot;\u{301}&lt;\u{338}&amp;\u{301}"),
      ("{{account}}", "&#123;&#123;account}}"), ("é\r\n✓", "é\r\n✓"), ("", ""),
    ])
  func escaped(text: String, written: String) {
    #expect(Array(FrontPage.escaped(text).utf8) == Array(written.utf8))
  }

  @Test("Events: the past once, then every newer state, a comment in between, and no state twice")
  func events() throws {
    let visitor = Visitor(anybody)
    let stream = try #require(try visitor.get("/console/events").stream)
    var now = SystemClock.monotonicNanoseconds()
    func next() -> String? {
      if case .bytes(let bytes) = stream.next(nowNanoseconds: now) {
        String(decoding: bytes, as: UTF8.self)
      } else {
        nil
      }
    }
    #expect(next() == "retry: 2000\n\n")
    // The past that there is may be of long ago.
    #expect(next() == nil && visitor.console.wantsPast)
    visitor.console.publish(
      .object([("now", .int(2))]), lines: [], past: .object([("held", .list([.int(1)]))]))
    #expect(!visitor.console.wantsPast)
    #expect(next() == "event: past\nid: 2\ndata: {\"held\":[1]}\n\n")
    #expect(next() == "event: state\nid: 2\ndata: {\"now\":2}\n\n")
    #expect(next() == nil)
    for number in [3, 4] as [Int64] {
      visitor.console.publish(.object([("now", .int(number))]), lines: [], past: nil)
    }
    // Who is slow gets the newest alone.
    #expect(next() == "event: state\nid: 4\ndata: {\"now\":4}\n\n")
    now += 14 * second
    #expect(next() == nil)
    now += 2 * second
    #expect(next() == ": still here\n\n")
    #expect(next() == nil)
  }

  @Test("One page too many is told to come back, and there is room again when one has gone")
  func subscribers() throws {
    let visitor = Visitor(anybody)
    var streams = try (0..<2).map { _ in try visitor.get("/console/events").stream }
    let refused = try visitor.get("/console/events")
    #expect(refused.status == .serviceUnavailable && refused.field("Retry-After") == "5")
    #expect(visitor.console.subscriberCount == 2)
    streams.removeLast()
    #expect(try visitor.get("/console/events").status == .ok)
    streams.removeAll()
    #expect(visitor.console.subscriberCount == 0)
  }

  @Test("A look-up is answered when it is there, one too many is refused, and none waits for ever")
  func lookups() throws {
    let visitor = Visitor(anybody)
    let first = try #require(try visitor.get("/console/stock?location=x+y&sku=%E2%82%AC%22").stream)
    let other = try #require(try visitor.get("/console/reservation?id=r").stream)
    #expect(try visitor.get("/console/reservation?id=s").status == .serviceUnavailable)
    let now = SystemClock.monotonicNanoseconds()
    guard case .later = first.next(nowNanoseconds: now) else {
      return #expect(Bool(false), "too early")
    }
    let taken = visitor.console.takeLookups()
    #expect(taken.map(\.question) == [.stock(sku: "€\"", location: "x y"), .reservation("r")])
    taken[0].finish(.object([("found", .bool(true))]))
    guard case .bytes(let bytes) = first.next(nowNanoseconds: now) else {
      return #expect(Bool(false), "no answer")
    }
    #expect(String(decoding: bytes, as: UTF8.self) == "{\"found\":true}\n")
    guard case .end = first.next(nowNanoseconds: now) else {
      return #expect(Bool(false), "it goes on")
    }
    guard case .bytes(let late) = other.next(nowNanoseconds: now + 6 * second) else {
      return #expect(Bool(false), "it waits")
    }
    #expect(String(decoding: late, as: UTF8.self).contains("error"))
    #expect(try visitor.get("/console/reservation?id=s").status == .ok)
  }

  @Test("Nothing is looked up for who has left, and it takes nobody's place")
  func abandonedLookups() throws {
    let visitor = Visitor(anybody)
    for _ in 0..<10 { #expect(try visitor.get("/console/stock?sku=a").status == .ok) }
    let waits = try #require(try visitor.get("/console/stock?sku=b").stream)
    let leaves = try visitor.get("/console/stock?sku=c").stream
    #expect(leaves != nil)
    #expect(try visitor.get("/console/stock?sku=d").status == .serviceUnavailable)
    let taken = visitor.console.takeLookups()
    #expect(taken.map(\.question) == ["b", "c"].map { .stock(sku: $0, location: "") })
    withExtendedLifetime(leaves) { #expect(taken.map(\.isWanted) == [true, true]) }
    withExtendedLifetime(waits) {}
  }

  @Test(
    "A hostile name stays a text in JSON",
    arguments: [
      ("</script><b>", #""\u003c/script\u003e\u003cb\u003e""#),
      ("a\"\\\n\u{0}", #""a\"\\\u000a\u0000""#),
      ("\u{2028}\u{9b}é", #""\u2028\u009bé""#), ("&", #""\u0026""#), ("", #""""#),
    ])
  func json(text: String, written: String) {
    #expect(String(decoding: JSON.text(text).bytes, as: UTF8.self) == written)
  }

  @Test(
    "Numbers in JSON",
    arguments: [
      (JSON.number(1.5), "1.5"), (.number(2), "2"), (.number(-0.00001), "0"),
      (.number(.nan), "null"),
      (.number(.infinity), "null"), (.number(1e300), "1e+300"), (.number(-1.5e308), "-1.5e+308"),
      (.number(nil), "null"),
      (.int(-3), "-3"),
      (.count(UInt64.max), "9223372036854775807"), (.list([.null, .bool(true)]), "[null,true]"),
      (.number(0.12345678), "0.1235"), (.object([]), "{}"),
    ])
  func numbers(value: JSON, written: String) {
    #expect(String(decoding: value.bytes, as: UTF8.self) == written)
  }
}

private final class SharedFlag: Sendable {
  private let flag = Atomic<Bool>(true)

  var value: Bool {
    get { flag.load(ordering: .relaxed) }
    set { flag.store(newValue, ordering: .relaxed) }
  }
}

@Suite struct FormBodyTests {
  private static func connection(_ most: Int = 100) -> AdminConnection {
    AdminConnection(limits: .test, nowNanoseconds: 0) { $0.path == "/form" ? most : 0 }
  }

  private static func feed(_ connection: AdminConnection, _ text: String, piece: Int) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty, connection.wantsInput {
      let part = Array(rest.prefix(piece))
      rest = rest.dropFirst(piece)
      connection.receive(part.span, nowNanoseconds: 0)
    }
  }

  @Test("A body that is wanted is read whole, in whatever pieces", arguments: [1, 7, 1000])
  func body(piece: Int) throws {
    let connection = Self.connection()
    Self.feed(
      connection, "POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\ntoken=a", piece: piece
    )
    guard case .waiting(let request) = connection.phase else {
      return #expect(Bool(false), "no request")
    }
    #expect(String(decoding: request.body, as: UTF8.self) == "token=a")
    #expect(request.closesConnection)
  }

  @Test(
    "One that is too long, of another page, or in chunks is not",
    arguments: [
      "POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n",
      "POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n",
      "POST /form HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
      "POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
      "POST /form HTTP/1.1\r\nHost: x\r\n\r\n",
    ])
  func noBody(head: String) {
    let connection = Self.connection()
    Self.feed(connection, head, piece: 1000)
    guard case .waiting(let request) = connection.phase else {
      return #expect(Bool(false), "no request")
    }
    #expect(request.body.isEmpty)
  }

  @Test("Who does not send it has the time of a head")
  func slow() {
    let connection = Self.connection()
    Self.feed(
      connection, "POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nto", piece: 1000)
    connection.expire(nowNanoseconds: 4 * second)
    #expect(connection.phase == .readingHead)
    connection.expire(nowNanoseconds: 6 * second)
    #expect(connection.phase == .sending)
    let bytes = connection.withOutput { span in span.indices.map { span[$0] } }
    #expect(String(decoding: bytes, as: UTF8.self).hasPrefix("HTTP/1.1 408"))
  }
}
