// How a server is spoken to: the flags of every command that calls one, and the variables of the environment that stand
// for them.
internal import ArgumentParser
internal import Client
internal import GRPC
internal import Posix

/// TLS, credentials and metadata; spelt as holdfast-load does.
struct ServiceAccess: ParsableArguments {
  @Flag(help: "Speak TLS to the server. An address that begins with https:// is TLS by itself.")
  var tls = false
  @Option(
    help: ArgumentHelp(
      "PEM file of the CAs that the server's certificate may be of (HOLDFAST_CA, or the system's).",
      valueName: "file"), completion: .file())
  var tlsCa: String?
  @Option(
    help: ArgumentHelp(
      "PEM file of the client's certificate chain (HOLDFAST_CLIENT_CERT).", valueName: "file"),
    completion: .file())
  var tlsCert: String?
  @Option(
    help: ArgumentHelp(
      "PEM file of the client certificate's key (HOLDFAST_CLIENT_KEY).", valueName: "file"),
    completion: .file())
  var tlsKey: String?
  @Option(
    help: ArgumentHelp(
      "The name that the server's certificate must have (the host of the address).",
      valueName: "name"))
  var serverName: String?
  @Option(
    help: ArgumentHelp(
      """
      File whose first line is the token; read at every connection (HOLDFAST_TOKEN_FILE, or the token itself in \
      HOLDFAST_TOKEN; the credential token of a service).
      """, valueName: "file"), completion: .file())
  var tokenFile: String?
  @Option(
    help: ArgumentHelp(
      """
      Goes with every call. May be given again. Not for tokens, which everybody on this machine could read with ps.
      """, valueName: "name=value"))
  var metadata: [String] = []

  /// The server at an address, spoken to as the flags say.
  /// - Parameters:
  ///   - more: metadata that goes along too.
  ///   - warns: of a token that others may read.
  func target(
    _ text: String, with more: [ClientMetadata] = [], warns: Bool = true
  ) throws(CommandFailure) -> ServiceTarget {
    guard var target = ServiceTarget(text) else {
      throw Self.mistake(
        "--target: '\(text)' is not an address and a port, such as 127.0.0.1:7420, or unix:/path")
    }
    target.metadata = more
    for (index, text) in metadata.enumerated() {
      do {
        target.metadata.append(try ClientMetadata(parsing: text))
      } catch {
        throw Self.mistake("--metadata (\(index + 1) of \(metadata.count)): \(error)")
      }
    }
    if let serverName { target.name = serverName }
    try secure(&target)
    authenticate(&target)
    if warns { warn(target) }
    return target
  }

  private func secure(_ target: inout ServiceTarget) throws(CommandFailure) {
    guard tls || target.asksForTLS else {
      for (flag, value) in [
        ("--tls-ca", tlsCa), ("--tls-cert", tlsCert), ("--tls-key", tlsKey),
        ("--server-name", serverName),
      ] where value != nil {
        throw Self.mistake("\(flag) goes with --tls")
      }
      return
    }
    var files: TLSFiles?
    let environment = ProcessEnvironment.value
    switch (
      tlsCert ?? environment("HOLDFAST_CLIENT_CERT"), tlsKey ?? environment("HOLDFAST_CLIENT_KEY")
    ) {
    case (let certificate?, let key?): files = TLSFiles(certificate: certificate, key: key)
    case (nil, nil): break
    default: throw Self.mistake("--tls-cert and --tls-key go together")
    }
    do throws(TLSFileError) {
      target.tls = try TLSClientContext(
        authority: tlsCa ?? environment("HOLDFAST_CA"), files: files)
    } catch {
      throw CommandFailure(description: "\(error)")
    }
  }

  /// What names the caller: the flag, else the metadata, else the environment.
  private func authenticate(_ target: inout ServiceTarget) {
    if let tokenFile {
      target.token = .file(tokenFile)
      return
    }
    if target.hasTokenInMetadata { return }
    if let token = ProcessEnvironment.value("HOLDFAST_TOKEN") {
      target.token = .text(token)
    } else if let file = ProcessEnvironment.value("HOLDFAST_TOKEN_FILE") {
      target.token = .file(file)
    } else if let credential = ServiceCredential.file("token") {
      target.token = .file(credential.path)
    }
  }

  private func warn(_ target: ServiceTarget) {
    if target.hasTokenInMetadata {
      CommandFailure.complain(
        "warning: everybody on this machine can read a token in --metadata (ps): use --token-file or HOLDFAST_TOKEN"
      )
    }
    if target.token != nil || target.hasTokenInMetadata, target.isInTheClear {
      CommandFailure.complain("warning: the token goes to \(target) in the clear: use --tls")
    }
  }

  static func mistake(_ text: String) -> CommandFailure {
    CommandFailure(description: text, status: CommandFailure.usage)
  }
}
