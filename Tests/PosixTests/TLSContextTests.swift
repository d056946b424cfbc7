import Foundation
import Posix
import Synchronization
import Testing

@Suite("TLS contexts")
struct TLSContextTests {
  /// Shakes hands, moves a byte each way, so that tickets arrive, and gives back both ends.
  private func connect(
    _ server: TLSServerContext, _ client: TLSClientContext, serverName: String = "localhost"
  ) throws -> TransportPair {
    let pair = try TransportPair(server: server, client: client, serverName: serverName)
    try pair.shakeHands()
    if pair.clientHandshake == .done, pair.serverHandshake == .done {
      #expect(try pair.transfer([1], from: \.server, to: \.client) == [1])
    }
    return pair
  }

  private func reason(_ handshake: Handshake) -> String {
    guard case .failed(let failure) = handshake else { return "no failure" }
    return failure.description
  }

  @Test("Sessions are resumed, also after the certificate was renewed")
  func resumption() throws {
    let certificates = try Certificates()
    try certificates.copy(try certificates.make("first"), to: "server")
    let server = try TLSServerContext(certificates.files("server"))
    let client = try TLSClientContext(authority: certificates.path("ca.pem"))
    #expect(try !connect(server, client).isResumed)
    let second = try connect(server, client)
    #expect(second.isResumed)
    try certificates.copy(try certificates.make("second", days: 30), to: "server")
    try server.reload()
    #expect(try connect(server, client).isResumed)
  }

  @Test("Ticket keys are renewed by time, and sessions go on", arguments: [false, true])
  func ticketKeys(reloads: Bool) throws {
    let certificates = try Certificates()
    try certificates.make("server")
    let server = try TLSServerContext(certificates.files("server"), nowNanoseconds: 0)
    let client = try TLSClientContext(authority: certificates.path("ca.pem"))
    let idle = try TLSClientContext(authority: certificates.path("ca.pem"))
    let age = TLSServerContext.ticketKeyNanoseconds
    #expect(try !connect(server, client).isResumed)
    #expect(try !connect(server, idle).isResumed)
    for round in 1...4 {
      // A nanosecond before its time nothing happens, however often.
      for _ in 0..<3 { server.rotateTicketKeys(nowNanoseconds: Int64(round) * age - 1) }
      if reloads { try server.reload(nowNanoseconds: Int64(round) * age) }
      server.rotateTicketKeys(nowNanoseconds: Int64(round) * age)
      // The ticket of the key before is good, and is replaced by one of the key of now.
      #expect(try connect(server, client).isResumed, "\(round)")
    }
    // One that did not come for so long has a ticket that nobody can read any more.
    #expect(try !connect(server, idle).isResumed)
    #expect(try connect(server, idle).isResumed)
  }

  @Test("A ticket outlives one change of keys and not two", arguments: 0...3)
  func oldTickets(changes: Int) throws {
    let certificates = try Certificates()
    try certificates.make("server")
    let server = try TLSServerContext(certificates.files("server"), nowNanoseconds: 0)
    let client = try TLSClientContext(authority: certificates.path("ca.pem"))
    _ = try connect(server, client)
    for change in 0..<changes {
      server.rotateTicketKeys(
        nowNanoseconds: Int64(change + 1) * TLSServerContext.ticketKeyNanoseconds)
    }
    #expect(try connect(server, client).isResumed == (changes < 2))
  }

  @Test("A reload leaves running connections alone and gives new ones the new certificate")
  func reload() throws {
    let certificates = try Certificates()
    try certificates.copy(try certificates.make("first"), to: "server")
    let server = try TLSServerContext(certificates.files("server"))
    let firstExpiry = try #require(server.expiryUnixSeconds)
    let trusting = { try TLSClientContext(authority: certificates.path($0)) }
    let running = try connect(server, try trusting("ca.pem"))

    try certificates.authority("other-ca")
    try certificates.copy(
      try certificates.make("second", authority: "other-ca", days: 30), to: "server")
    try server.reload()
    #expect(try #require(server.expiryUnixSeconds) > firstExpiry + 20 * 86_400)
    #expect(try running.transfer([1, 2], from: \.client, to: \.server) == [1, 2])
    #expect(try running.transfer([3], from: \.server, to: \.client) == [3])
    let refused = try connect(server, try trusting("ca.pem"))
    #expect(reason(refused.clientHandshake).hasPrefix("certificate: "))
    #expect(try connect(server, try trusting("other-ca.pem")).clientHandshake == .done)
  }

  @Test("Files that cannot be used leave what was in force, and say why")
  func badFiles() throws {
    let certificates = try Certificates()
    try certificates.make("good")
    try certificates.make("other")
    try certificates.copy(certificates.files("good"), to: "server")
    let files = certificates.files("server", clientAuthority: "ca")
    let server = try TLSServerContext(files)
    try certificates.write("no PEM", to: "text")
    let cases: [(break: () throws -> Void, says: String)] = [
      (
        {
          try certificates.copy(
            TLSFiles(
              certificate: certificates.path("other.pem"),
              key: certificates.path("good.key")), to: "server")
        },
        "not the key of the certificate"
      ),
      ({ try certificates.write("", to: "server.pem") }, "nothing of that kind in it"),
      ({ try FileManager.default.removeItem(atPath: files.key) }, "No such file or directory"),
      (
        { try certificates.write("no PEM", to: "ca.pem") }, "no certificate in it"
      ),
      (
        { try FileManager.default.removeItem(atPath: certificates.path("ca.pem")) },
        "No such file or directory"
      ),
    ]
    let client = try TLSClientContext(
      authority: certificates.path("ca.pem"), files: certificates.files("good"))
    for (damage, says) in cases {
      try damage()
      do throws(TLSFileError) {
        try server.reload()
        Issue.record("bad files were taken: \(says)")
      } catch {
        #expect(error.description.contains(says), "\(error)")
      }
      #expect(try connect(server, client).serverHandshake == .done)
      if says.contains("CA") { continue }
      try certificates.copy(certificates.files("good"), to: "server")
    }
  }

  @Test("A key with a passphrase is turned down and asks nobody")
  func passphrase() throws {
    let certificates = try Certificates()
    let files = try certificates.make("server")
    try certificates.encryptKey("server", as: "locked")
    #expect(throws: TLSFileError.self) {
      _ = try TLSServerContext(
        TLSFiles(certificate: files.certificate, key: certificates.path("locked.key")))
    }
  }

  @Test("Mutual TLS: no certificate, one of another CA, and the right one")
  func mutual() throws {
    let certificates = try Certificates()
    try certificates.authority("other-ca")
    try certificates.make("server")
    try certificates.make("shop", commonName: "shop", names: "")
    try certificates.make("stranger", commonName: "shop", names: "", authority: "other-ca")
    let server = try TLSServerContext(certificates.files("server", clientAuthority: "ca"))
    let authority = certificates.path("ca.pem")

    let without = try connect(server, try TLSClientContext(authority: authority))
    #expect(reason(without.serverHandshake) == "certificate: the peer sent none")
    let strange = try connect(
      server, try TLSClientContext(authority: authority, files: certificates.files("stranger")))
    #expect(reason(strange.serverHandshake).hasPrefix("certificate: unable to get local issuer"))
    // TLS 1.3: the client is done before the server looks at its certificate; it reads the alert.
    guard case .failed(.tls(let error)) = try without.await(\.client).result else {
      Issue.record("the client was not told")
      return
    }
    #expect(error.isOurCertificateRejected)
    #expect("\(error)".contains("certificate required"))

    let client = try TLSClientContext(authority: authority, files: certificates.files("shop"))
    let first = try connect(server, client)
    #expect(first.subject == "cn:shop")
    let resumed = try connect(server, client)
    #expect(resumed.isResumed && resumed.subject == "cn:shop")
  }

  @Test("Other client CAs end all sessions")
  func otherAuthority() throws {
    let certificates = try Certificates()
    try certificates.authority("other-ca")
    try certificates.make("server")
    try certificates.make("shop", commonName: "shop")
    try certificates.copy(
      TLSFiles(certificate: certificates.path("ca.pem"), key: certificates.path("ca.key")),
      to: "clients")
    let server = try TLSServerContext(certificates.files("server", clientAuthority: "clients"))
    let client = try TLSClientContext(
      authority: certificates.path("ca.pem"), files: certificates.files("shop"))
    _ = try connect(server, client)
    #expect(try connect(server, client).isResumed)
    try certificates.copy(
      TLSFiles(
        certificate: certificates.path("other-ca.pem"), key: certificates.path("other-ca.key")),
      to: "clients")
    try server.reload()
    let refused = try connect(server, client)
    #expect(reason(refused.serverHandshake).hasPrefix("certificate: "))
  }

  @Test(
    "Whom a certificate names: a URI, else a DNS name, else the common name",
    arguments: [
      ("shop", "DNS:a.test,URI:spiffe://test/shop,URI:spiffe://test/b", "uri:spiffe://test/shop"),
      ("shop", "DNS:b.test,DNS:a.test", "dns:b.test"), ("shop two", "", "cn:shop two"),
      ("shop", "email:a@b.test", "cn:shop"),
      (String(repeating: "x", count: 64), "", "cn:" + String(repeating: "x", count: 64)),
      (
        "shop", "URI:urn:\(String(repeating: "x", count: 60))",
        "uri:urn:\(String(repeating: "x", count: 60))"
      ),
      ("shop", "URI:urn:\(String(repeating: "x", count: 61))", nil), (" shop", "", nil),
      ("", "", nil),
    ] as [(String, String, String?)])
  func subjects(commonName: String, names: String, subject: String?) throws {
    let certificates = try Certificates()
    try certificates.make("server")
    try certificates.make("client", commonName: commonName, names: names)
    let server = try TLSServerContext(certificates.files("server", clientAuthority: "ca"))
    let client = try TLSClientContext(
      authority: certificates.path("ca.pem"), files: certificates.files("client"))
    let pair = try connect(server, client)
    #expect(pair.serverHandshake == .done)
    #expect(pair.subject == subject)
  }

  @Test(
    "The server's name is checked",
    arguments: [
      ("localhost", nil), ("127.0.0.1", nil), ("other.test", "certificate: hostname mismatch"),
      ("127.0.0.2", "certificate: IP address mismatch"),
    ] as [(String, String?)])
  func serverName(name: String, failure: String?) throws {
    let certificates = try Certificates()
    try certificates.make("server")
    let server = try TLSServerContext(certificates.files("server"))
    let client = try TLSClientContext(authority: certificates.path("ca.pem"))
    let pair = try connect(server, client, serverName: name)
    guard let failure else {
      #expect(pair.clientHandshake == .done)
      return
    }
    #expect(reason(pair.clientHandshake).lowercased() == failure.lowercased())
    #expect(throws: TransportPair.NoContext.self) {
      _ = try TransportPair(server: server, client: client, serverName: "")
    }
  }

  @Test(
    "Other clients: OpenSSL's own program",
    arguments: [
      (["-alpn", "h2"], true), (["-alpn", "http/1.1"], false), (["-alpn", "http/1.1,h2"], true),
      ([], true), (["-tls1_2", "-alpn", "h2"], true), (["-tls1_1"], false),
      (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"], false),
    ])
  func programs(arguments: [String], succeeds: Bool) throws {
    let certificates = try Certificates()
    try certificates.make("server")
    let server = try TLSServerContext(certificates.files("server"))
    let listener = try Socket.listen(host: "127.0.0.1", port: 0)
    let program = try certificates.startClient(
      port: try Socket.localPort(listener.number), arguments: arguments)
    defer { program.terminate() }
    var transport = try #require(server.accept(try acceptOne(listener).take()))
    defer { transport.close() }
    var result = transport.handshake()
    while case .wouldBlock(let readiness) = result {
      try #require(try waitFor(transport.descriptor, writable: readiness == .writable))
      result = transport.handshake()
    }
    #expect((result == .done) == succeeds, "\(result)")
    if arguments == ["-alpn", "http/1.1"], case .failed(.tls(let error)) = result {
      #expect(error.isWithoutCommonProtocol)
    }
    #expect(transport.hasChosenHTTP2 == (succeeds && arguments.contains { $0.contains("h2") }))
  }

  @Test("Changed files are noticed once each, a missing one too")
  func watch() throws {
    let certificates = try Certificates()
    for name in ["a.pem", "a.key"] { try certificates.write("1", to: name) }
    var watch = TLSFilesWatch(certificates.files("a"))
    let steps: [(change: () throws -> Void, isOne: Bool)] = [
      ({}, false),
      // Replaced by a rename: another inode, whatever the clock's steps.
      ({ try certificates.write("2", to: "a.key") }, true), ({}, false),
      ({ try FileManager.default.removeItem(atPath: certificates.path("a.pem")) }, true),
      ({}, false), ({ try certificates.write("1", to: "a.pem") }, true), ({}, false),
    ]
    for (number, step) in steps.enumerated() {
      try step.change()
      let hasChanged = watch.hasChanged()
      #expect(hasChanged == step.isOne, "step \(number)")
    }
  }

  @Test("Reloads beside handshakes on other threads")
  func concurrentReloads() throws {
    let certificates = try Certificates()
    try certificates.make("server")
    let server = try TLSServerContext(certificates.files("server"))
    let client = try TLSClientContext(authority: certificates.path("ca.pem"))
    let isOver = Atomic(false)
    let reloading = try Thread(name: "reload") {
      while !isOver.load(ordering: .relaxed) { try? server.reload() }
    }
    for _ in 0..<50 { #expect(try connect(server, client).clientHandshake == .done) }
    isOver.store(true, ordering: .relaxed)
    reloading.join()
  }

  @Test("An idle connection stays below 30 KiB")
  func memory() throws {
    let certificates = try Certificates()
    try certificates.make("server")
    try certificates.make("client", commonName: "shop")
    let server = try TLSServerContext(certificates.files("server", clientAuthority: "ca"))
    let client = try TLSClientContext(
      authority: certificates.path("ca.pem"), files: certificates.files("client"))
    _ = try connect(server, client)
    let count = 500
    var pairs: [TransportPair] = []
    let before = residentBytes()
    for _ in 0..<count {
      let pair = try connect(server, client)
      pair.server.releaseIdleBuffers()
      pair.client.releaseIdleBuffers()
      pairs.append(pair)
    }
    // Two ends a pair; the pairs' own read buffers are never touched beyond their first pages.
    let each = (residentBytes() - before) / (2 * count)
    print("an idle TLS connection: \(each) bytes")
    #expect(each < 30 * 1024)
    withExtendedLifetime(pairs) {}
  }

  private func residentBytes() -> Int {
    let pages = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?
      .split(separator: " ").dropFirst().first.flatMap { Int($0) }
    return (pages ?? 0) * 4096
  }
}
