// What the admin port answers to which request.
internal import Metrics

/// What the server is doing: whether calls should be sent to it.
package enum ServingState: UInt8, Sendable {
  /// Not yet.
  case starting
  /// Not yet: it reads what an earlier run has left.
  case recovering
  /// Not yet: another server answers, and it takes over when that one is gone.
  case standby
  /// Yes.
  case ready
  /// No longer: it finishes the calls that it has.
  case draining

  /// As `/readyz` and the front page say it.
  package var name: String {
    switch self {
    case .starting: "starting"
    case .recovering: "recovering"
    case .standby: "standby"
    case .ready: "ready"
    case .draining: "draining"
    }
  }
}

/// What operators and their tools ask a server: `/metrics` for Prometheus, `/livez` and `/readyz`
/// for an orchestrator, and `/` for a person.
struct AdminPages: Sendable {
  let page: MetricsPage
  let readiness: @Sendable () -> ServingState
  let information: @Sendable () -> [(name: String, value: String)]
  /// Whether a request may see what is not a probe; nil where everybody may.
  let isAllowed: (@Sendable (AdminRequest) -> Bool)?
  /// nil: there is none.
  var console: ConsolePages?

  /// A probe: answered at once, before the pages that others have asked for, and to everybody.
  static func isProbe(_ request: AdminRequest) -> Bool {
    request.path == "/livez" || request.path == "/readyz"
  }

  /// How long a body of the request may be that is read; 0: it is not.
  func formBytesMax(_ request: AdminRequest) -> Int { console?.formBytesMax(request) ?? 0 }

  /// The answer to any request; never fails.
  func response(to request: AdminRequest) -> AdminResponse {
    // Before the rule of the other pages: it has its own.
    if let console, let response = console.response(to: request) { return response }
    if let isAllowed, !Self.isProbe(request), !isAllowed(request) {
      var response = AdminResponse.text(.unauthorized, "a token with the role admin is needed")
      // RFC 6750 section 3.
      response.fields.append(("WWW-Authenticate", "Bearer"))
      return response
    }
    guard request.method == "GET" || request.isHead else {
      var response = AdminResponse.text(.methodNotAllowed, "only GET and HEAD")
      response.fields.append(("Allow", "GET, HEAD"))
      return response
    }
    // Paths are compared as they are: //metrics is not /metrics.
    switch request.path {
    case "/":
      let html = FrontPage.html(
        readiness: readiness(), information: information(), hasConsole: console != nil)
      return AdminResponse(
        .ok, .bytes(Array(html.utf8)), contentType: "text/html; charset=utf-8")
    case "/metrics":
      let format = ExpositionFormat.preferred(accept: request.accept)
      var response = AdminResponse(
        .ok, .bytes(Array(page.render(format).utf8)), contentType: format.contentType)
      response.fields.append(("Vary", "Accept"))
      return response
    case "/livez": return .text(.ok, "ok")
    case "/readyz":
      let readiness = readiness()
      return readiness == .ready ? .text(.ok, "ok") : .text(.serviceUnavailable, readiness.name)
    default: return .text(.notFound, "not found; / lists what there is")
    }
  }
}
