// AMQP's methods, by librabbitmq. Of that library this is all that is used: its sockets wait without limit for a broker
// that does not read, as one with an alarm does; half a frame keeps them from returning; each message costs three system
// calls; and its reader of headers calls itself once for each table in a table.
internal import CRabbitMQ
internal import Messaging

/// A method of a broker's.
enum ServerMethod: Equatable {
  case start(mechanisms: String)
  case secure
  case tune(channelsMax: UInt16, frameBytesMax: UInt32, heartbeatSeconds: UInt16)
  case openOK
  case close(CloseReason)
  case closeOK
  case blocked(String)
  case unblocked
  case channelOpenOK
  case channelClose(CloseReason)
  case channelCloseOK
  case channelFlow(isActive: Bool)
  case exchangeDeclareOK
  case queueDeclareOK(queue: String, messages: Int)
  case queueBindOK
  case qosOK
  case consumeOK
  case cancel(consumer: String)
  case confirmSelectOK
  case deliver(consumer: String, tag: UInt64, isRedelivered: Bool)
  case `return`(code: UInt16, text: String, routingKey: String)
  case ack(tag: UInt64, multiple: Bool)
  case nack(tag: UInt64, multiple: Bool)
}

extension ServerMethod {
  /// It is about the connection, on channel 0; others are about a channel.
  var isOfConnection: Bool {
    switch self {
    case .start, .secure, .tune, .openOK, .close, .closeOK, .blocked, .unblocked: true
    default: false
    }
  }
}

/// Reads and writes methods. Used by one thread.
@safe final class MethodCodec {
  /// A method of ours, at most: the least that every broker takes in a frame.
  static let methodBytesMax = 4096 - 8

  private let pool: UnsafeMutablePointer<amqp_pool_t>
  private let scratch: UnsafeMutableRawBufferPointer

  init() {
    unsafe pool = .allocate(capacity: 1)
    unsafe pool.initialize(to: amqp_pool_t())
    unsafe init_amqp_pool(pool, 1024)
    unsafe scratch = .allocate(byteCount: Self.methodBytesMax, alignment: 8)
  }

  deinit {
    unsafe empty_amqp_pool(pool)
    unsafe pool.deallocate()
    unsafe scratch.deallocate()
  }

  /// Appends a frame with a method of ours. False: its names are too long.
  /// - Parameter make: the method's structure, from texts that are kept until it is written.
  func append<Method>(
    _ number: amqp_method_number_t, channel: UInt16, to output: inout [UInt8],
    _ make: (CTexts) -> Method
  ) -> Bool {
    let texts = CTexts()
    var method = make(texts)
    let room = unsafe amqp_bytes_t(len: scratch.count - 4, bytes: scratch.baseAddress! + 4)
    // The structure is the one that belongs to the number, and what it points at is alive.
    let count = unsafe withUnsafeMutablePointer(to: &method) { pointer in
      unsafe amqp_encode_method(number, pointer, room)
    }
    texts.free()
    guard count >= 0, texts.areShort else { return false }
    unsafe scratch.storeBytes(of: number.bigEndian, as: UInt32.self)
    output.appendFrame(.method, channel: channel, byteCount: Int(count) + 4)
    unsafe output.append(contentsOf: UnsafeRawBufferPointer(rebasing: scratch[..<(Int(count) + 4)]))
    output.append(Frame.end)
    return true
  }

  /// - Parameter payload: of a frame with a method.
  @unsafe func decode(_ payload: UnsafeRawBufferPointer) throws(BrokerError) -> ServerMethod {
    guard payload.count >= 4 else { throw .fault("a method without a number") }
    let number = unsafe UInt32(bigEndian: payload.loadUnaligned(as: UInt32.self))
    // The library reads it, and does not write.
    let bytes = unsafe amqp_bytes_t(
      len: payload.count - 4, bytes: UnsafeMutableRawPointer(mutating: payload.baseAddress! + 4))
    var decoded: UnsafeMutableRawPointer?
    defer { unsafe recycle_amqp_pool(pool) }
    let status = unsafe amqp_decode_method(number, pool, bytes, &decoded)
    guard status >= 0, let decoded = unsafe decoded else {
      throw .fault("a method that cannot be read (\(hex(number)))")
    }
    // The structure is the one that belongs to the number, in the pool; its texts are in `payload`.
    if let method = unsafe frequent(number, decoded) ?? connection(number, decoded)
      ?? reply(number, decoded)
    {
      return method
    }
    throw .fault("a method that nobody asked for (\(hex(number)))")
  }

  private func hex(_ number: UInt32) -> String { "0x" + String(number, radix: 16) }

  @unsafe private func frequent(
    _ number: UInt32, _ decoded: UnsafeMutableRawPointer
  ) -> ServerMethod? {
    switch number {
    case AMQP_BASIC_ACK_METHOD:
      let method = unsafe decoded.load(as: amqp_basic_ack_t.self)
      return .ack(tag: method.delivery_tag, multiple: method.multiple != 0)
    case AMQP_BASIC_DELIVER_METHOD:
      let method = unsafe decoded.load(as: amqp_basic_deliver_t.self)
      return unsafe .deliver(
        consumer: text(method.consumer_tag), tag: method.delivery_tag,
        isRedelivered: method.redelivered != 0)
    case AMQP_BASIC_NACK_METHOD:
      let method = unsafe decoded.load(as: amqp_basic_nack_t.self)
      return .nack(tag: method.delivery_tag, multiple: method.multiple != 0)
    case AMQP_BASIC_RETURN_METHOD:
      let method = unsafe decoded.load(as: amqp_basic_return_t.self)
      return unsafe .return(
        code: method.reply_code, text: text(method.reply_text), routingKey: text(method.routing_key)
      )
    case AMQP_BASIC_CANCEL_METHOD:
      let method = unsafe decoded.load(as: amqp_basic_cancel_t.self)
      return unsafe .cancel(consumer: text(method.consumer_tag))
    default: return nil
    }
  }

  @unsafe private func connection(
    _ number: UInt32, _ decoded: UnsafeMutableRawPointer
  ) -> ServerMethod? {
    switch number {
    case AMQP_CONNECTION_START_METHOD:
      let method = unsafe decoded.load(as: amqp_connection_start_t.self)
      return unsafe .start(mechanisms: text(method.mechanisms))
    case AMQP_CONNECTION_SECURE_METHOD: return .secure
    case AMQP_CONNECTION_TUNE_METHOD:
      let method = unsafe decoded.load(as: amqp_connection_tune_t.self)
      return .tune(
        channelsMax: method.channel_max, frameBytesMax: method.frame_max,
        heartbeatSeconds: method.heartbeat)
    case AMQP_CONNECTION_OPEN_OK_METHOD: return .openOK
    case AMQP_CONNECTION_CLOSE_METHOD:
      let method = unsafe decoded.load(as: amqp_connection_close_t.self)
      return unsafe .close(
        CloseReason(
          code: method.reply_code, text: text(method.reply_text),
          method: UInt32(method.class_id) << 16 | UInt32(method.method_id)))
    case AMQP_CONNECTION_CLOSE_OK_METHOD: return .closeOK
    case AMQP_CONNECTION_BLOCKED_METHOD:
      let method = unsafe decoded.load(as: amqp_connection_blocked_t.self)
      return unsafe .blocked(text(method.reason))
    case AMQP_CONNECTION_UNBLOCKED_METHOD: return .unblocked
    case AMQP_CHANNEL_CLOSE_METHOD:
      let method = unsafe decoded.load(as: amqp_channel_close_t.self)
      return unsafe .channelClose(
        CloseReason(
          code: method.reply_code, text: text(method.reply_text),
          method: UInt32(method.class_id) << 16 | UInt32(method.method_id)))
    case AMQP_CHANNEL_CLOSE_OK_METHOD: return .channelCloseOK
    case AMQP_CHANNEL_FLOW_METHOD:
      let method = unsafe decoded.load(as: amqp_channel_flow_t.self)
      return .channelFlow(isActive: method.active != 0)
    default: return nil
    }
  }

  @unsafe private func reply(
    _ number: UInt32, _ decoded: UnsafeMutableRawPointer
  ) -> ServerMethod? {
    switch number {
    case AMQP_CHANNEL_OPEN_OK_METHOD: return .channelOpenOK
    case AMQP_EXCHANGE_DECLARE_OK_METHOD: return .exchangeDeclareOK
    case AMQP_QUEUE_DECLARE_OK_METHOD:
      let method = unsafe decoded.load(as: amqp_queue_declare_ok_t.self)
      return unsafe .queueDeclareOK(
        queue: text(method.queue), messages: Int(method.message_count))
    case AMQP_QUEUE_BIND_OK_METHOD: return .queueBindOK
    case AMQP_BASIC_QOS_OK_METHOD: return .qosOK
    case AMQP_BASIC_CONSUME_OK_METHOD: return .consumeOK
    case AMQP_CONFIRM_SELECT_OK_METHOD: return .confirmSelectOK
    default: return nil
    }
  }

  /// What is no UTF-8 in it is replaced.
  @unsafe private func text(_ bytes: amqp_bytes_t) -> String {
    guard let start = unsafe bytes.bytes else { return "" }
    return unsafe String(
      decoding: UnsafeRawBufferPointer(start: start, count: bytes.len), as: UTF8.self)
  }
}

/// Texts and tables that structures of C's point at.
@safe final class CTexts {
  private var blocks = unsafe [UnsafeMutableRawPointer]()
  /// Whether each text fits into AMQP's short strings.
  private(set) var areShort = true

  /// To be called once the structures were used.
  func free() {
    while let block = unsafe blocks.popLast() { unsafe block.deallocate() }
  }

  /// A name, of up to 255 bytes.
  func callAsFunction(_ text: String) -> amqp_bytes_t {
    if text.utf8.count > 255 { areShort = false }
    return unsafe long(Array(text.utf8))
  }

  /// A text of any length.
  func long(_ bytes: [UInt8]) -> amqp_bytes_t {
    if bytes.isEmpty { return unsafe amqp_bytes_t(len: 0, bytes: nil) }
    let block = UnsafeMutableRawPointer.allocate(byteCount: bytes.count, alignment: 1)
    unsafe block.copyMemory(from: bytes, byteCount: bytes.count)
    unsafe blocks.append(block)
    return unsafe amqp_bytes_t(len: bytes.count, bytes: block)
  }

  enum Value {
    case text(String)
    case flag(Bool)
    case number(Int64)
    case table([(String, Value)])
  }

  func table(_ rows: [(String, Value)]) -> amqp_table_t {
    if rows.isEmpty { return unsafe amqp_table_t(num_entries: 0, entries: nil) }
    let entries = UnsafeMutablePointer<amqp_table_entry_t>.allocate(capacity: rows.count)
    unsafe blocks.append(UnsafeMutableRawPointer(entries))
    for (index, row) in rows.enumerated() {
      var value = unsafe amqp_field_value_t()
      switch row.1 {
      case .text(let text):
        unsafe value.kind = UInt8(AMQP_FIELD_KIND_UTF8.rawValue)
        unsafe value.value.bytes = unsafe long(Array(text.utf8))
      case .flag(let flag):
        unsafe value.kind = UInt8(AMQP_FIELD_KIND_BOOLEAN.rawValue)
        unsafe value.value.boolean = flag ? 1 : 0
      case .number(let number):
        unsafe value.kind = UInt8(AMQP_FIELD_KIND_I64.rawValue)
        unsafe value.value.i64 = number
      case .table(let rows):
        unsafe value.kind = UInt8(AMQP_FIELD_KIND_TABLE.rawValue)
        unsafe value.value.table = unsafe table(rows)
      }
      unsafe (entries + index).initialize(
        to: amqp_table_entry_t(key: self(row.0), value: value))
    }
    return unsafe amqp_table_t(num_entries: Int32(rows.count), entries: entries)
  }
}
