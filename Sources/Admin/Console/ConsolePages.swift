// The pages of the console: which there are, and who gets them.
internal import Posix

struct ConsolePages: Sendable {
  private static let html = "text/html; charset=utf-8"
  private static let json = "application/json"
  /// Scripts and styles come from this server alone, none stands in the page; and no script makes a page of a text
  /// (Trusted Types), so that no name of an item, whatever it is, becomes part of one.
  private static let policy = """
    default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; \
    frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'
    """
  /// Names and ids are far shorter.
  private static let queryTextBytesMax = 512

  private let console: Console
  /// Cookies know no ports: two servers of one machine need two names.
  private let cookieName: String
  private let isTLS: Bool

  init(_ console: Console, port: UInt16, isTLS: Bool) {
    self.console = console
    self.isTLS = isTLS
    cookieName = "holdfast_console_\(port)"
  }

  func formBytesMax(_ request: AdminRequest) -> Int {
    request.method == "POST" && request.path == "/console/login" ? console.limits.formBytesMax : 0
  }

  /// nil: it is no page of the console.
  func response(to request: AdminRequest) -> AdminResponse? {
    guard request.path == "/console" || request.path.hasPrefix("/console/") else { return nil }
    var response: AdminResponse
    if let refusal = refusal(request) {
      response = refusal
    } else if request.method == "POST" {
      response = change(request)
    } else if request.method == "GET" || request.isHead {
      response = page(request)
    } else {
      response = .text(.methodNotAllowed, "only GET, HEAD and, for forms, POST")
      response.fields.append(("Allow", "GET, HEAD, POST"))
    }
    response.policy = Self.policy
    response.fields.append(("Cross-Origin-Opener-Policy", "same-origin"))
    response.fields.append(("Cross-Origin-Resource-Policy", "same-origin"))
    // Not no-referrer: with that, a browser does not say whose page has sent a form.
    response.fields.append(("Referrer-Policy", "same-origin"))
    response.fields.append(("X-Frame-Options", "DENY"))
    return response
  }

  /// Why the request gets nothing, whatever it asks for.
  private func refusal(_ request: AdminRequest) -> AdminResponse? {
    switch console.rule {
    case .nobody(let why): return .text(.forbidden, why)
    case .anybody(let hosts):
      if RequestOrigin.isOurs(request.host, names: hosts) { return nil }
      return .text(
        .misdirectedRequest,
        "without --tokens the console is shown under an IP address, localhost, or the name of --admin-host"
      )
    case .tokens: return nil
    }
  }

  // MARK: Pages

  private func page(_ request: AdminRequest) -> AdminResponse {
    switch request.path {
    case "/console/console.css":
      return AdminResponse(
        .ok, .bytes(Array(ConsoleStyle.text.utf8)), contentType: "text/css; charset=utf-8")
    case "/console/console.js":
      return AdminResponse(
        .ok, .bytes(Array(ConsoleScript.text.utf8)), contentType: "text/javascript; charset=utf-8")
    case "/console/login": return loginPage(request, problem: nil)
    default: break
    }
    let grant: ConsoleGrant?
    switch admitted(request) {
    case .everybody: grant = nil
    case .granted(let known): grant = known
    case .refused(let why):
      return request.path == "/console" ? redirect(to: "/console/login") : unauthorized(why)
    }
    switch request.path {
    case "/console": return consolePage(grant)
    case "/console/state":
      return AdminResponse(
        .ok, .bytes(console.newest.state + Array("\n".utf8)), contentType: Self.json)
    case "/console/events": return events(grant)
    case "/console/stock": return stock(request.query)
    case "/console/reservation": return reservation(request.query)
    default: return .text(.notFound, "not found; /console is what there is")
    }
  }

  private func consolePage(_ grant: ConsoleGrant?) -> AdminResponse {
    let rows = console.newest.lines.map { line in
      "<tr><th scope=\"row\">\(FrontPage.escaped(line.name))</th><td>\(FrontPage.escaped(line.value))</td></tr>"
    }
    let account =
      grant.map {
        """
        <form class="account" method="post" action="/console/logout">
        <span>\(FrontPage.escaped($0.caller.isEmpty ? "administrator" : $0.caller))</span>
        <button type="submit">Sign out</button>
        </form>
        """
      } ?? ""
    let page = ConsoleHTML.text.replacing("{{rows}}", with: rows.joined(separator: "\n"))
      .replacing("{{account}}", with: account)
    return AdminResponse(.ok, .bytes(Array(page.utf8)), contentType: Self.html)
  }

  private func events(_ grant: ConsoleGrant?) -> AdminResponse {
    let now = SystemClock.monotonicNanoseconds()
    guard let events = ConsoleEvents(console, grant, nowNanoseconds: now) else {
      return busy("too many consoles are open")
    }
    var response = AdminResponse(.ok, .stream(events), contentType: "text/event-stream")
    // nginx would wait for more before it passes anything on.
    response.fields.append(("X-Accel-Buffering", "no"))
    return response
  }

  // MARK: Look-ups

  private func stock(_ query: String) -> AdminResponse {
    guard let sku = FormFields.value("sku", in: query), !sku.isEmpty,
      sku.utf8.count <= Self.queryTextBytesMax
    else { return .text(.badRequest, "which item? /console/stock?sku=SKU&location=LOCATION") }
    let location = FormFields.value("location", in: query) ?? ""
    guard location.utf8.count <= Self.queryTextBytesMax else {
      return .text(.badRequest, "no location is so long")
    }
    return lookUp(.stock(sku: sku, location: location))
  }

  private func reservation(_ query: String) -> AdminResponse {
    guard let id = FormFields.value("id", in: query), !id.isEmpty,
      id.utf8.count <= Self.queryTextBytesMax
    else { return .text(.badRequest, "which reservation? /console/reservation?id=ID") }
    return lookUp(.reservation(id))
  }

  private func lookUp(_ question: ConsoleQuestion) -> AdminResponse {
    guard let lookup = console.ask(question) else { return busy("too many look-ups wait") }
    let deadline = SystemClock.monotonicNanoseconds() + console.limits.lookupNanosecondsMax
    return AdminResponse(
      .ok, .stream(LookupAnswer(lookup, deadlineNanoseconds: deadline)), contentType: Self.json)
  }

  private func busy(_ why: String) -> AdminResponse {
    var response = AdminResponse.text(.serviceUnavailable, "\(why); try again in a few seconds")
    response.fields.append(("Retry-After", "5"))
    return response
  }

  // MARK: Who asks

  private enum Admitted {
    case everybody
    case granted(ConsoleGrant)
    case refused(String)
  }

  private func admitted(_ request: AdminRequest) -> Admitted {
    guard case .tokens(let admit) = console.rule else { return .everybody }
    if let authorization = request.authorization {
      // Letters of either case mean the same in a scheme (RFC 9110 section 11.1).
      let parts = authorization.split(separator: " ", maxSplits: 1)
      guard parts.count == 2, parts[0].lowercased() == "bearer" else {
        return .refused("Authorization is to be: Bearer TOKEN")
      }
      switch admit(String(parts[1])) {
      case .granted(let grant): return .granted(grant)
      case .refused(let why): return .refused(why)
      }
    }
    guard let id = sessionID(request),
      let grant = console.sessions.grant(id, nowNanoseconds: SystemClock.monotonicNanoseconds())
    else { return .refused("a token with the role admin is needed") }
    return .granted(grant)
  }

  private func sessionID(_ request: AdminRequest) -> String? {
    for cookie in (request.cookie ?? "").split(separator: ";") {
      let parts = cookie.split(separator: "=", maxSplits: 1)
      if parts.count == 2, parts[0].drop(while: { $0 == " " }) == cookieName {
        return String(parts[1])
      }
    }
    return nil
  }

  private func unauthorized(_ why: String) -> AdminResponse {
    var response = AdminResponse.text(.unauthorized, why)
    // RFC 6750 section 3.
    response.fields.append(("WWW-Authenticate", "Bearer"))
    return response
  }

  private func redirect(to path: String) -> AdminResponse {
    var response = AdminResponse.text(.seeOther, "see \(path)")
    response.fields.append(("Location", path))
    return response
  }

  // MARK: Forms

  private func loginPage(_ request: AdminRequest, problem: String?) -> AdminResponse {
    guard case .tokens = console.rule else { return redirect(to: "/console") }
    let warning =
      isTLS || RequestOrigin.isLoopback(request.host)
      ? ""
      : "<p class=\"note\">This page came without TLS: on a network, others can read the token. See --admin-tls.</p>"
    let problem = problem.map { "<p class=\"problem\" role=\"alert\">\(FrontPage.escaped($0))</p>" }
    let page = ConsoleLoginHTML.text.replacing("{{problem}}", with: problem ?? "")
      .replacing("{{warning}}", with: warning)
    return AdminResponse(
      problem == nil ? .ok : .unauthorized, .bytes(Array(page.utf8)), contentType: Self.html)
  }

  private func change(_ request: AdminRequest) -> AdminResponse {
    guard RequestOrigin.isSameOrigin(request) else {
      return .text(.forbidden, "that form was sent from another site's page")
    }
    switch request.path {
    case "/console/login": return logIn(request)
    case "/console/logout":
      if let id = sessionID(request) { console.sessions.end(id) }
      var response = redirect(to: "/console/login")
      response.fields.append(("Set-Cookie", cookie("", seconds: 0)))
      return response
    default:
      var response = AdminResponse.text(.methodNotAllowed, "only GET and HEAD")
      response.fields.append(("Allow", "GET, HEAD"))
      return response
    }
  }

  private func logIn(_ request: AdminRequest) -> AdminResponse {
    guard case .tokens(let admit) = console.rule else { return redirect(to: "/console") }
    let form = String(decoding: request.body, as: UTF8.self)
    guard let token = FormFields.value("token", in: form), !token.isEmpty else {
      return loginPage(request, problem: "A token is needed.")
    }
    switch admit(token) {
    case .refused(let why):
      var response = loginPage(request, problem: why)
      response.fields.append(("WWW-Authenticate", "Bearer"))
      return response
    case .granted(let grant):
      let id = console.sessions.begin(grant, nowNanoseconds: SystemClock.monotonicNanoseconds())
      var response = redirect(to: "/console")
      let seconds = console.limits.sessionNanosecondsMax / 1_000_000_000
      response.fields.append(("Set-Cookie", cookie(id, seconds: seconds)))
      return response
    }
  }

  private func cookie(_ value: String, seconds: Int64) -> String {
    "\(cookieName)=\(value); Path=/console; Max-Age=\(seconds); HttpOnly; SameSite=Strict"
      + (isTLS ? "; Secure" : "")
  }
}
