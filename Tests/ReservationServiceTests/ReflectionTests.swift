import GRPC
import ReservationService
import Testing

@Suite("Reflection")
struct ReflectionTests {
  private let service = Service()
  private static let paths = ["v1", "v1alpha"].map {
    "/grpc.reflection.\($0).ServerReflection/ServerReflectionInfo"
  }
  private static let services = Set(HoldfastHandler.methods.map(\.service)).sorted()

  /// The names of the files in a FileDescriptorResponse.
  private func fileNames(_ answer: Fields) -> [String] {
    (answer.message(4)?.bytes(1) ?? []).compactMap { Fields($0)?.text(1) }
  }

  @Test("All services are listed", arguments: paths)
  func list(path: String) throws {
    let request = Message().with(1, "somewhere").with(7, "*")
    let answer = try service.ok(path, request)
    #expect(answer.text(1) == "somewhere")
    #expect(answer.bytes(2) == [request.bytes])
    #expect(answer.message(6)?.messages(1).map { $0.text(1) } == Self.services)
    #expect(
      Self.services == [
        "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection", "holdfast.v1.BackupService",
        "holdfast.v1.EventService",
        "holdfast.v1.ReservationService", "holdfast.v1.StockService",
      ])
  }

  @Test("The file of every service is found, with everything that it imports", arguments: services)
  func files(name: String) throws {
    let answer = try service.ok(Self.paths[0], Message().with(4, name))
    let files = try #require(answer.message(4)).bytes(1).compactMap { Fields($0) }
    #expect(!files.isEmpty)
    let names = files.map { $0.text(1) }
    #expect(Set(names).count == names.count)
    for file in files { for imported in file.texts(3) { #expect(names.contains(imported)) } }
    let simpleName = name.split(separator: ".").last.map(String.init)
    #expect(files[0].messages(6).map { $0.text(1) }.contains { $0 == simpleName })
    #expect(name.hasPrefix(files[0].text(2)))
  }

  @Test("Every method is found as a symbol", arguments: HoldfastHandler.methods.indices)
  func methods(index: Int) throws {
    let method = HoldfastHandler.methods[index]
    let answer = try service.ok(
      Self.paths[1], Message().with(4, "\(method.service).\(method.method)"))
    let file = try #require(answer.message(4)?.messages(1).first)
    let services = file.messages(6).filter { method.service.hasSuffix(".\($0.text(1))") }
    #expect(services.flatMap { $0.messages(2) }.map { $0.text(1) }.contains(method.method))
  }

  @Test(
    "Messages, fields and enumerations are found",
    arguments: [
      ("holdfast.v1.ReserveRequest", "holdfast/v1/reservation.proto"),
      ("holdfast.v1.ReserveRequest.ttl", "holdfast/v1/reservation.proto"),
      ("holdfast.v1.ReservationState", "holdfast/v1/reservation.proto"),
      ("holdfast.v1.StockLevel", "holdfast/v1/stock.proto"),
      ("holdfast.v1.Event.stock", "holdfast/v1/event.proto"),
      ("grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"),
      ("google.protobuf.Duration", "google/protobuf/duration.proto"),
      ("google.rpc.Status", "google/rpc/status.proto"),
      ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
      ("google.rpc.PreconditionFailure.Violation", "google/rpc/error_details.proto"),
    ])
  func symbols(symbol: String, file: String) throws {
    let answer = try service.ok(Self.paths[0], Message().with(4, symbol))
    #expect(fileNames(answer).first == file)
  }

  @Test("A file is found by its name")
  func byName() throws {
    let answer = try service.ok(Self.paths[0], Message().with(3, "holdfast/v1/stock.proto"))
    #expect(
      Set(fileNames(answer)) == ["holdfast/v1/stock.proto", "google/protobuf/timestamp.proto"])
    let reservation = try service.ok(
      Self.paths[0], Message().with(3, "holdfast/v1/reservation.proto"))
    #expect(
      Set(fileNames(reservation)) == [
        "holdfast/v1/reservation.proto", "google/protobuf/duration.proto",
        "google/protobuf/timestamp.proto",
      ])
  }

  @Test(
    "What is not there is NOT_FOUND, and the stream goes on",
    arguments: [
      Message().with(3, "nobody.proto"), Message().with(4, "nobody"), Message().with(4, ""),
      Message().with(4, "holdfast.v1"),
      Message().with(5, Message().with(1, "holdfast.v1.StockLevel").with(2, 1 as Int64)),
      Message().with(6, "holdfast.v1.Nobody"), Message().with(6, ""),
      Message().with(6, "holdfast.v1.StockService"),
      Message().with(6, "holdfast.v1.StockLevel.sku"),
    ].map(\.bytes))
  func notFound(request: [UInt8]) throws {
    guard case .message(let answer) = try service.call(Self.paths[0], bytes: request) else {
      Issue.record("the stream ended")
      return
    }
    #expect(answer.message(7)?.number(1) == Int64(StatusCode.notFound.rawValue))
    #expect(answer.message(4) == nil)
  }

  @Test(
    "A message has no extensions, and that is an answer",
    arguments: [
      "holdfast.v1.StockLevel", "google.rpc.ErrorInfo", "google.rpc.BadRequest.FieldViolation",
      "google.protobuf.Any",
    ], paths)
  func extensions(message: String, path: String) throws {
    let answer = try service.ok(path, Message().with(6, message))
    let numbers = try #require(answer.message(5))
    #expect(numbers.text(1) == message)
    #expect(numbers.bytes(2).isEmpty)
    #expect(answer.message(7) == nil)
  }

  @Test("An empty request is an error, a malformed one ends the stream")
  func emptyAndMalformed() throws {
    let answer = try service.ok(Self.paths[0], Message())
    #expect(answer.message(7)?.number(1) == Int64(StatusCode.invalidArgument.rawValue))
    guard case .failure(let refused) = try service.call(Self.paths[0], bytes: [0x0a]) else {
      Issue.record("not refused")
      return
    }
    #expect(refused.code == .invalidArgument)
  }
}
