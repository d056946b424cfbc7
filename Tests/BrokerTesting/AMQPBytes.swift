// What a broker sends, byte for byte, made by other code than the code under test.

/// Numbers of methods, class and number.
package enum M {
  package static let start: UInt32 = 0x000a_000a
  package static let startOK: UInt32 = 0x000a_000b
  package static let secure: UInt32 = 0x000a_0014
  package static let tune: UInt32 = 0x000a_001e
  package static let tuneOK: UInt32 = 0x000a_001f
  package static let open: UInt32 = 0x000a_0028
  package static let openOK: UInt32 = 0x000a_0029
  package static let close: UInt32 = 0x000a_0032
  package static let closeOK: UInt32 = 0x000a_0033
  package static let blocked: UInt32 = 0x000a_003c
  package static let unblocked: UInt32 = 0x000a_003d
  package static let channelOpen: UInt32 = 0x0014_000a
  package static let channelOpenOK: UInt32 = 0x0014_000b
  package static let channelClose: UInt32 = 0x0014_0028
  package static let channelCloseOK: UInt32 = 0x0014_0029
  package static let flow: UInt32 = 0x0014_0014
  package static let flowOK: UInt32 = 0x0014_0015
  package static let exchangeDeclare: UInt32 = 0x0028_000a
  package static let exchangeDeclareOK: UInt32 = 0x0028_000b
  package static let queueDeclare: UInt32 = 0x0032_000a
  package static let queueDeclareOK: UInt32 = 0x0032_000b
  package static let queueBind: UInt32 = 0x0032_0014
  package static let queueBindOK: UInt32 = 0x0032_0015
  package static let qos: UInt32 = 0x003c_000a
  package static let qosOK: UInt32 = 0x003c_000b
  package static let consume: UInt32 = 0x003c_0014
  package static let consumeOK: UInt32 = 0x003c_0015
  package static let cancel: UInt32 = 0x003c_001e
  package static let publish: UInt32 = 0x003c_0028
  package static let `return`: UInt32 = 0x003c_0032
  package static let deliver: UInt32 = 0x003c_003c
  package static let ack: UInt32 = 0x003c_0050
  package static let nack: UInt32 = 0x003c_0078
  package static let select: UInt32 = 0x0055_000a
  package static let selectOK: UInt32 = 0x0055_000b
}

package func u16(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 255)] }

package func u32(_ value: UInt32) -> [UInt8] {
  u16(UInt16(value >> 16)) + u16(UInt16(value & 0xffff))
}

package func u64(_ value: UInt64) -> [UInt8] {
  u32(UInt32(value >> 32)) + u32(UInt32(value & 0xffff_ffff))
}

package func short(_ text: String) -> [UInt8] { [UInt8(text.utf8.count)] + Array(text.utf8) }

package func long(_ bytes: [UInt8]) -> [UInt8] { u32(UInt32(bytes.count)) + bytes }

package func long(_ text: String) -> [UInt8] { long(Array(text.utf8)) }

package func frame(_ kind: UInt8, _ channel: UInt16, _ payload: [UInt8]) -> [UInt8] {
  [kind] + u16(channel) + u32(UInt32(payload.count)) + payload + [0xce]
}

package func method(_ number: UInt32, _ arguments: [UInt8] = [], channel: UInt16 = 1) -> [UInt8] {
  frame(1, channel, u32(number) + arguments)
}

package func close(_ code: UInt16, _ text: String, about: UInt32 = 0) -> [UInt8] {
  u16(code) + short(text) + u32(about)
}

package func deliver(
  _ tag: UInt64, consumer: String = "0", redelivered: Bool = false
) -> [UInt8] {
  method(
    M.deliver, short(consumer) + u64(tag) + [redelivered ? 1 : 0] + short("x") + short("key"))
}

/// A header frame: class, weight, size of the body, properties.
package func header(_ size: UInt64, _ properties: [UInt8] = u16(0)) -> [UInt8] {
  frame(2, 1, u16(60) + u16(0) + u64(size) + properties)
}

package func body(_ bytes: [UInt8]) -> [UInt8] { frame(3, 1, bytes) }
