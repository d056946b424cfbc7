// swift-tools-version: 6.2
// Holdfast: the module graph. docs/ARCHITECTURE.md says what each module holds; an arrow that is missing here
// is missing on purpose (the build runs with --explicit-target-dependency-import-check error).
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .strictMemorySafety(),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("ExistentialAny"),
]

func module(
  _ name: String, _ dependencies: [Target.Dependency] = [], path: String? = nil
) -> Target {
  .target(
    name: name, dependencies: dependencies, path: path ?? "Sources/\(name)", swiftSettings: strict)
}

func executable(_ name: String, _ dependencies: [Target.Dependency], path: String) -> Target {
  .executableTarget(name: name, dependencies: dependencies, path: path, swiftSettings: strict)
}

func tests(
  _ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []
) -> Target {
  .testTarget(
    name: name, dependencies: dependencies, path: "Tests/\(name)", exclude: exclude,
    swiftSettings: strict)
}

let argumentParser: Target.Dependency = .product(
  name: "ArgumentParser", package: "swift-argument-parser")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

let package = Package(
  name: "holdfast",
  platforms: [.macOS(.v26)],
  products: [
    .executable(name: "holdfast", targets: ["holdfast"]),
    .executable(name: "holdfast-load", targets: ["holdfast-load"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    // Without its readers of files: those want the whole of Foundation, and so 40 MB of ICU in a static program.
    .package(url: "https://github.com/apple/swift-configuration", from: "1.4.0", traits: []),
    .package(url: "https://github.com/apple/swift-log", from: "1.14.0"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
  ],
  targets: [
    .systemLibrary(
      name: "CNGHTTP2", path: "Sources/CNGHTTP2", pkgConfig: "libnghttp2",
      providers: [.apt(["libnghttp2-dev"]), .brew(["libnghttp2"])]),
    .systemLibrary(
      name: "CProtobufC", path: "Sources/CProtobufC", pkgConfig: "libprotobuf-c",
      providers: [.apt(["libprotobuf-c-dev"]), .brew(["protobuf-c"])]),
    .systemLibrary(
      name: "CZlib", path: "Sources/CZlib", pkgConfig: "zlib",
      providers: [.apt(["zlib1g-dev"]), .brew(["zlib"])]),
    .systemLibrary(
      name: "COpenSSL", path: "Sources/COpenSSL", pkgConfig: "openssl",
      providers: [.apt(["libssl-dev"]), .brew(["openssl@3"])]),
    .systemLibrary(
      name: "CPostgres", path: "Sources/CPostgres", pkgConfig: "libpq",
      providers: [.apt(["libpq-dev"]), .brew(["libpq"])]),
    .systemLibrary(
      name: "CRabbitMQ", path: "Sources/CRabbitMQ", pkgConfig: "librabbitmq",
      providers: [.apt(["librabbitmq-dev"]), .brew(["rabbitmq-c"])]),
    .systemLibrary(
      name: "CKafka", path: "Sources/CKafka", pkgConfig: "rdkafka",
      providers: [.apt(["librdkafka-dev"]), .brew(["librdkafka"])]),
    .systemLibrary(
      name: "CKafkaMock", path: "Tests/CKafkaMock", pkgConfig: "rdkafka",
      providers: [.apt(["librdkafka-dev"]), .brew(["librdkafka"])]),
    .target(
      name: "CHoldfastProto", dependencies: ["CProtobufC"], path: "Sources/CHoldfastProto",
      cSettings: [.headerSearchPath("include")]),
    .target(name: "CPlatform", path: "Sources/CPlatform"),
    .target(name: "CVersion", path: "Sources/CVersion"),

    module("Version", ["CVersion"]),
    module("Posix", ["COpenSSL", "CPlatform"]),
    module("Bytes"),
    module("HTTP2", ["Bytes"]),
    module("GRPC", ["Bytes", "HTTP2", "CZlib"]),
    module("Metrics"),
    module("Log", ["Posix", "Bytes", "CPlatform"]),
    module("PostgresLog", ["Log", "Posix", "CPlatform", "CPostgres"]),
    module("StockStore", ["Log", "Posix", "Bytes", "CPlatform"]),
    module("StorePersistence", ["StockStore", "Log", "Posix", "Bytes", "CPlatform"]),
    module("ChangeFeed", ["StockStore", "Log", "Posix", "Bytes"]),
    module("Access", ["Posix", "CPlatform"]),
    module(
      "ReservationService",
      [
        "ChangeFeed", "StorePersistence", "StockStore", "Log", "Access", "Posix", "GRPC", "Bytes",
        "CHoldfastProto",
      ]),
    module("Server", ["Posix", "HTTP2", "GRPC", "Bytes", "Metrics"]),
    module("Admin", ["Posix", "Metrics", "Bytes"]),
    module("Supervision", ["Posix"]),
    module("Client", ["Access", "Posix", "HTTP2", "GRPC", "Bytes"]),
    module("Projection", ["PostgresLog", "Log", "Client", "Posix", "Metrics"]),
    module("Messaging", ["Posix", "Bytes"]),
    module("RabbitMQ", ["Messaging", "Posix", "Bytes", "CRabbitMQ"]),
    module("Kafka", ["Messaging", "Posix", "Bytes", "CKafka"]),
    module("Relay", ["Messaging", "Client", "Posix", "Bytes", "Metrics"]),
    module("Intake", ["Messaging", "Client", "GRPC", "Posix", "Bytes", "Metrics"]),
    executable(
      "holdfast",
      [
        "Posix", "HTTP2", "GRPC", "Metrics", "Log", "PostgresLog", "StockStore", "StorePersistence",
        "ChangeFeed", "Access", "ReservationService", "Server", "Admin", "Bytes", "Projection",
        "Supervision", "Version", "Client", "Messaging", "RabbitMQ", "Kafka", "Relay", "Intake",
        argumentParser, logging,
        .product(name: "Configuration", package: "swift-configuration"),
        .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
        .product(name: "UnixSignals", package: "swift-service-lifecycle"),
      ], path: "Sources/holdfast"),

    module(
      "LoadReport",
      ["Posix", "CZlib", .product(name: "Histogram", package: "hdrhistogram-swift")],
      path: "LoadTest/LoadReport"),
    module("LoadHistory", path: "LoadTest/LoadHistory"),
    module(
      "LoadKit",
      [
        "LoadReport", "LoadHistory", "Posix", "GRPC", "HTTP2", "Version", "Messaging", "RabbitMQ",
      ],
      path: "LoadTest/LoadKit"),
    executable(
      "holdfast-load",
      ["LoadKit", "LoadReport", "LoadHistory", "Posix", "Version", "Messaging", argumentParser],
      path: "LoadTest/holdfast-load"),
    executable(
      "store-benchmark", ["Log", "StockStore", "StorePersistence", "Posix"],
      path: "Benchmarks/StoreBenchmark"),
    executable("watch-benchmark", ["GRPC", "HTTP2", "Posix"], path: "Benchmarks/WatchBenchmark"),
    executable(
      "broker-benchmark", ["Messaging", "RabbitMQ", "Posix"], path: "Benchmarks/BrokerBenchmark"),

    tests("VersionTests", ["Version"]),
    tests("PosixTests", ["Posix"]),
    tests("HTTP2Tests", ["HTTP2", "CNGHTTP2", "WireTesting"]),
    tests("BytesTests", ["Bytes"]),
    tests("GRPCTests", ["GRPC", "HTTP2", "Bytes", "WireTesting"]),
    tests("MetricsTests", ["Metrics"]),
    tests("LogTests", ["Log", "Posix", "Bytes", "CPlatform", "LogFixtures"]),
    tests("PostgresLogTests", ["PostgresLog", "Log", "Posix"]),
    tests("ProjectionTests", ["Projection", "PostgresLog", "Client", "Posix", "Bytes", "Metrics"]),
    tests("StockStoreTests", ["StockStore", "Log", "Posix", "Bytes", "Simulation"]),
    tests(
      "StorePersistenceTests",
      [
        "StorePersistence", "StockStore", "Log", "Posix", "Bytes", "CPlatform", "Simulation",
        "LogFixtures",
      ]),
    tests(
      "ChangeFeedTests",
      ["ChangeFeed", "StockStore", "Log", "Posix", "Bytes", "Simulation"]),
    tests("AccessTests", ["Access", "Posix", "CPlatform"]),
    tests(
      "ReservationServiceTests",
      [
        "ReservationService", "StorePersistence", "StockStore", "Log", "Access", "GRPC", "HTTP2",
        "Bytes", "Metrics", "Posix", "CHoldfastProto", "CProtobufC", "WireTesting", "Simulation",
      ]),
    tests("ServerTests", ["Server", "Posix", "HTTP2", "GRPC", "Bytes", "Metrics"]),
    tests("SupervisionTests", ["Supervision", "Posix"]),
    tests("AdminTests", ["Admin", "Posix", "Metrics", "Bytes"]),
    tests("ClientTests", ["Client", "Posix", "GRPC", "Bytes"]),
    tests("MessagingTests", ["Messaging", "Posix", "Bytes", "BrokerTesting"]),
    tests("RabbitMQTests", ["RabbitMQ", "Messaging", "Posix", "BrokerTesting"]),
    tests("KafkaTests", ["Kafka", "Messaging", "Posix", "CKafkaMock"]),
    tests("RelayTests", ["Relay", "Messaging", "Client", "Posix", "Bytes", "Metrics"]),
    tests(
      "IntakeTests",
      [
        "Intake", "Messaging", "Client", "GRPC", "Posix", "Bytes", "Metrics", "BrokerTesting",
      ]),
    tests("HistoryTests", ["LoadHistory"]),
    tests(
      "ReportTests",
      ["LoadReport", "Posix", .product(name: "Histogram", package: "hdrhistogram-swift")]),
    tests("CompareTests", ["LoadKit", "LoadReport", "Posix"]),
    tests(
      "LoadTests",
      ["LoadKit", "LoadReport", "LoadHistory", "Posix", "GRPC", "WireTesting", "Messaging"]),
    module("WireTesting", ["GRPC", "HTTP2"], path: "Tests/WireTesting"),
    module("BrokerTesting", ["Messaging", "Posix"], path: "Tests/BrokerTesting"),
    module("LogFixtures", ["Log", "Posix", "Bytes"], path: "Tests/LogFixtures"),
    module(
      "Simulation", ["ChangeFeed", "StorePersistence", "StockStore", "Log", "Posix"],
      path: "Tests/Simulation/Simulation"),
    executable(
      "simulate", ["Simulation", "StockStore", "Log", "Posix", argumentParser],
      path: "Tests/Simulation/simulate"),
    .testTarget(
      name: "SimulationTests", dependencies: ["Simulation", "StockStore", "Log", "Posix"],
      path: "Tests/Simulation/SimulationTests", swiftSettings: strict),
    tests("TidyTests", []),
  ]
)

// The fuzz targets bring libFuzzer's main function along, so that no other build may see them (scripts/fuzz.sh).
if Context.environment["HOLDFAST_FUZZ"] != nil {
  package.products = [.library(name: "Fuzz", type: .static, targets: ["Fuzz"])]
  package.targets.append(
    module(
      "Fuzz",
      ["GRPC", "HTTP2", "RabbitMQ", "Messaging", "Posix", "BrokerTesting", "Bytes", "Intake"],
      path: "Tests/Fuzz"))
}
