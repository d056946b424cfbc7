// swift-tools-version: 6.2
// A package of its own: the server does not depend on what its clients use.
import PackageDescription

let package = Package(
  name: "checkout",
  platforms: [.macOS(.v15)],
  dependencies: [
    .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.0"),
    .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.0"),
    .package(url: "https://github.com/grpc/grpc-swift-protobuf", from: "2.4.0"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
  ],
  targets: [
    // Generated from ../../proto by `make`.
    .target(
      name: "HoldfastV1",
      dependencies: [
        .product(name: "GRPCCore", package: "grpc-swift-2"),
        .product(name: "GRPCProtobuf", package: "grpc-swift-protobuf"),
        .product(name: "SwiftProtobuf", package: "swift-protobuf"),
      ]),
    .executableTarget(
      name: "checkout",
      dependencies: [
        "HoldfastV1",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "GRPCNIOTransportHTTP2", package: "grpc-swift-nio-transport"),
      ],
      path: "Sources/Checkout",
      // A link to proto/retry-policy.json.
      resources: [.embedInCode("retry-policy.json")]),
  ])
