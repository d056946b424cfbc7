// Messages of a queue of librdkafka's, as deliveries.
internal import CKafka
internal import Messaging

@safe enum KafkaMessages {
  /// Takes what is in a queue, without waiting. What stands for an error there is taken care of.
  /// - Parameter take: gets each message, which is freed behind it.
  /// - Returns: how many were taken.
  /// - Throws: where an error of the partition says that somebody has to put it right.
  static func taken(
    from queue: OpaquePointer, atMost count: Int, of client: KafkaClient,
    _ take: (UnsafePointer<rd_kafka_message_t>) -> Void
  ) throws(BrokerError) -> Int {
    var failure: BrokerError?
    let taken = unsafe withUnsafeTemporaryAllocation(
      of: UnsafeMutablePointer<rd_kafka_message_t>?.self, capacity: count
    ) { buffer in
      let filled = unsafe max(0, rd_kafka_consume_batch_queue(queue, 0, buffer.baseAddress, count))
      var taken = 0
      for index in 0..<filled {
        guard let message = unsafe buffer[index] else { continue }
        if unsafe message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR {
          unsafe take(UnsafePointer(message))
          taken += 1
        } else if failure == nil {
          do throws(BrokerError) { try unsafe client.note(partition: message) } catch {
            failure = error
          }
        }
        unsafe rd_kafka_message_destroy(message)
      }
      return taken
    }
    if taken > 0 { client.noteLife() }
    if let failure { throw failure }
    return taken
  }

  static func delivery(
    _ message: UnsafePointer<rd_kafka_message_t>, tag: UInt64, origin: String
  ) -> BrokerDelivery {
    var delivery = BrokerDelivery(tag: tag, origin: origin)
    unsafe KafkaHeaders.read(message, into: &delivery)
    // The key is what the partition was chosen by.
    if let key = unsafe message.pointee.key, unsafe message.pointee.key_len > 0 {
      delivery.partitionKey = unsafe String(
        decoding: UnsafeRawBufferPointer(start: key, count: message.pointee.key_len), as: UTF8.self)
    }
    if let body = unsafe message.pointee.payload {
      delivery.body = unsafe Array(UnsafeRawBufferPointer(start: body, count: message.pointee.len))
    }
    return delivery
  }
}
