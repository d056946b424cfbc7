import Testing

@testable import ChangeFeed

/// Protobuf's wire format, against bytes that are written down, or put together one by one.
@Suite struct EventBytesTests {
  /// What `write` leaves, after one byte that must stay as it is.
  private static func bytes(_ write: (inout EventBytes) -> Void) -> [UInt8] {
    var out = EventBytes(capacity: 1)
    defer { out.free() }
    write(&out)
    var bytes: [UInt8] = []
    out.withSpan(0..<out.count) { span in bytes = span.indices.map { span[$0] } }
    return bytes
  }

  @Test(
    arguments: [
      (0, []), (1, [8, 1]), (0x7f, [8, 0x7f]), (0x80, [8, 0x80, 1]), (300, [8, 0xac, 2]),
      (1 << 28, [8, 0x80, 0x80, 0x80, 0x80, 1]),
      ((1 << 56) - 1, [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
      (1 << 56, [8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]),
      (.max, [8] + [UInt8](repeating: 0xff, count: 9) + [1]),
    ] as [(UInt64, [UInt8])])
  func numbers(value: UInt64, expected: [UInt8]) {
    let bytes = Self.bytes {
      $0.reserve(bytes: 0, numbers: 1)
      $0.field(1, value)
    }
    #expect(bytes == expected)
  }

  @Test("Numbers of every length, behind each other")
  func lengths() {
    for bits in 0..<64 {
      let pattern: UInt64 = 0x5a5a_a5a5_3c3c_c3c3
      let values: [UInt64] = [UInt64(1) << bits, UInt64.max >> bits, pattern >> bits]
      for value in values where value > 0 {
        var expected: [UInt8] = [16]
        var rest = value
        while rest > 0x7f {
          expected.append(UInt8(rest & 0x7f) | 0x80)
          rest >>= 7
        }
        expected.append(UInt8(rest))
        let bytes = Self.bytes {
          $0.reserve(bytes: 0, numbers: 2)
          $0.field(2, value)
          $0.field(2, value)
        }
        #expect(bytes == expected + expected)
      }
    }
  }

  @Test(arguments: 0...40)
  func texts(count: Int) {
    let text = (0..<count).map { UInt8(97 + $0 % 26) }
    let bytes = unsafe text.withUnsafeBufferPointer { buffer in
      Self.bytes {
        $0.reserve(bytes: count, numbers: 2)
        unsafe $0.field(3, UnsafeRawBufferPointer(buffer))
        $0.field(1, UInt64(5))
      }
    }
    let expected = count == 0 ? [] : [26, UInt8(count)] + text
    #expect(bytes == expected + [8, 5])
  }

  @Test(
    "A message whose length takes other bytes than were left for it",
    arguments: [0, 100, 127, 128, 16_400])
  func submessages(count: Int) {
    let text = [UInt8](repeating: 120, count: count)
    let alone = unsafe text.withUnsafeBufferPointer { buffer in
      Self.bytes {
        $0.reserve(bytes: count, numbers: 1)
        unsafe $0.field(3, UnsafeRawBufferPointer(buffer))
      }
    }
    for lengthBytes in 1...3 {
      let bytes = unsafe text.withUnsafeBufferPointer { buffer in
        Self.bytes {
          $0.reserve(bytes: count, numbers: 3)
          let start = $0.begin(2, lengthBytes: lengthBytes)
          unsafe $0.field(3, UnsafeRawBufferPointer(buffer))
          $0.end(start, lengthBytes: lengthBytes)
        }
      }
      var length: [UInt8] = []
      var rest = alone.count
      while rest > 0x7f {
        length.append(UInt8(rest & 0x7f) | 0x80)
        rest >>= 7
      }
      #expect(bytes == [18] + length + [UInt8(rest)] + alone)
    }
  }
}
