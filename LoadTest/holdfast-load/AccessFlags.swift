// How the server is spoken to: the flags of every subcommand that connects.
internal import ArgumentParser
internal import LoadKit
internal import Posix

struct AccessFlags: ParsableArguments {
  @Flag(
    help: "Speak TLS to the server. An --admin address that begins with https:// is TLS by itself.")
  var tls = false
  @Option(
    name: .customLong("tls-ca"),
    help: ArgumentHelp(
      "PEM file of the CAs that the server's certificate may be of. (default: the system's)",
      valueName: "file"))
  var authority: String?
  @Option(
    name: .customLong("tls-cert"),
    help: ArgumentHelp("PEM file of the client's certificate chain.", valueName: "file"))
  var certificate: String?
  @Option(
    name: .customLong("tls-key"),
    help: ArgumentHelp("PEM file of the client certificate's key.", valueName: "file"))
  var key: String?
  @Option(
    help: ArgumentHelp(
      "The name that the server's certificate must have. (default: the host of the address)",
      valueName: "name"))
  var serverName: String?
  @Option(
    help: ArgumentHelp(
      """
      Goes with every call: 'authorization=Bearer …'. The value of a name that ends in -bin is \
      base64. May be given again. Reports say the name and not the value.
      """, valueName: "name=value"))
  var metadata: [String] = []

  /// `target`, spoken to as the flags say.
  func apply(to target: Endpoint) throws(LoadError) -> Endpoint {
    var spoken = try applyToOne(target)
    spoken.others = []
    for other in target.others { spoken.others.append(try applyToOne(other)) }
    return spoken
  }

  private func applyToOne(_ target: Endpoint) throws(LoadError) -> Endpoint {
    var target = target
    target.metadata = try Metadata.parse(all: metadata)
    if !tls {
      if let serverName { target.name = serverName }
      return target
    }
    return try secure(target, offersHTTP2: true)
  }

  /// Checks that the flags of TLS have something to do.
  func check(usesTLS: Bool) throws(LoadError) {
    guard !usesTLS else { return }
    for (flag, value) in [
      ("--tls-ca", authority), ("--tls-cert", certificate), ("--tls-key", key),
      ("--server-name", serverName),
    ] where value != nil {
      throw LoadError("\(flag) goes with --tls")
    }
  }

  func secure(_ target: Endpoint, offersHTTP2: Bool) throws(LoadError) -> Endpoint {
    var files: TLSFiles?
    switch (certificate, key) {
    case (let certificate?, let key?): files = TLSFiles(certificate: certificate, key: key)
    case (nil, nil): break
    default: throw LoadError("--tls-cert and --tls-key go together")
    }
    var target = target
    if let serverName { target.name = serverName }
    do throws(TLSFileError) {
      target.tls = try TLSClientContext(
        authority: authority, files: files, offersHTTP2: offersHTTP2)
    } catch {
      throw LoadError("\(error)")
    }
    return target
  }
}

/// An admin address as the flag has it: HOST:PORT, http://HOST:PORT or https://HOST:PORT.
struct AdminAddress {
  let endpoint: Endpoint
  let isSecure: Bool

  static func resolving(_ text: String) throws(LoadError) -> AdminAddress {
    var address = Substring(text)
    let isSecure = address.hasPrefix("https://")
    for scheme in ["https://", "http://"] where address.hasPrefix(scheme) {
      address = address.dropFirst(scheme.count)
      if address.hasSuffix("/") { address = address.dropLast() }
    }
    return AdminAddress(endpoint: try Endpoint.resolving(String(address)), isSecure: isSecure)
  }
}
