internal import GRPC

/// What a loop asks of methods in every call, as bits: looking into the array of descriptors would
/// retain it each time.
struct MethodSets {
  /// A set of method numbers. Numbers outside 0 ... 63 are never in it.
  struct MethodSet {
    private var bits: UInt64 = 0

    init(_ methods: [MethodDescriptor], _ belongs: (MethodDescriptor) -> Bool) {
      precondition(methods.count <= UInt64.bitWidth, "a handler has at most 64 methods")
      for (number, method) in methods.enumerated() where belongs(method) { bits |= 1 << number }
    }

    func contains(_ number: Int) -> Bool {
      UInt(bitPattern: number) < UInt(UInt64.bitWidth) && bits >> UInt64(number) & 1 != 0
    }
  }

  let unary: MethodSet
  let bidirectional: MethodSet
  /// Those whose latency counts as the product's own.
  let reservations: MethodSet

  init(_ methods: [MethodDescriptor]) {
    unary = MethodSet(methods) { $0.type == .unary }
    bidirectional = MethodSet(methods) { $0.type == .bidirectional }
    reservations = MethodSet(methods) { $0.isReservation }
  }
}
