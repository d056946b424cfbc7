// What librdkafka's errors mean for whoever publishes or reads.
internal import CKafka
internal import Messaging

/// What to do about an error.
enum KafkaVerdict: Equatable {
  /// The library tries again by itself; to be told, no more.
  case passing
  /// The connection is of no more use; another one is to try.
  case away
  /// Somebody has to put it right.
  case unsuitable
  /// The message is at fault, whenever it is sent. The word is `BrokerNotice.refused`'s reason.
  case message(String)
}

@safe enum KafkaErrors {
  /// For the delivery report of a message. What is not named here is `away`: a message that failed for a reason that
  /// nobody knows is published again, never dropped.
  static func ofDelivery(_ error: rd_kafka_resp_err_t) -> KafkaVerdict {
    switch error {
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
      RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
      .message("MESSAGE_TOO_LARGE")
    case RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
      RD_KAFKA_RESP_ERR_POLICY_VIOLATION, RD_KAFKA_RESP_ERR__BAD_MSG:
      .message("REJECTED")
    case let error where namesNobodyServes.contains(error.rawValue): .unsuitable
    default: ofConfiguration(error) ? .unsuitable : .away
    }
  }

  /// For an error that a consumer or the client as a whole tells of.
  static func ofClient(_ error: rd_kafka_resp_err_t) -> KafkaVerdict {
    let isLasting =
      namesNobodyServes.contains(error.rawValue) || ofConfiguration(error)
      || ofGroup.contains(error.rawValue)
    return isLasting ? .unsuitable : .passing
  }

  /// For the error that ended a client for good (rd_kafka_fatal_error).
  static func ofEnd(_ error: rd_kafka_resp_err_t) -> KafkaVerdict {
    ofClient(error) == .unsuitable ? .unsuitable : .away
  }

  /// A topic that is not there, or that this user may not write to. To a destination that came with an order, it is the
  /// order's fault.
  static func isOfTopic(_ error: rd_kafka_resp_err_t) -> Bool {
    namesNobodyServes.contains(error.rawValue)
  }

  private static let namesNobodyServes: Set<Int32> = codes([
    RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
    RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
    RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
  ])

  private static let ofGroup: Set<Int32> = codes([
    RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_INVALID_GROUP_ID,
    RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL, RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT,
    RD_KAFKA_RESP_ERR_GROUP_MAX_SIZE_REACHED, RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
    // The positions of the group are no longer in the topic, and the operator said to stop then.
    RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET,
  ])

  private static let lasting: Set<Int32> = codes([
    RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
    RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM, RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE,
    RD_KAFKA_RESP_ERR__SSL, RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
    RD_KAFKA_RESP_ERR_SECURITY_DISABLED, RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE,
    RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION, RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT,
    RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE, RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
    RD_KAFKA_RESP_ERR__INVALID_ARG, RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED,
  ])

  private static func ofConfiguration(_ error: rd_kafka_resp_err_t) -> Bool {
    lasting.contains(error.rawValue)
  }

  private static func codes(_ errors: [rd_kafka_resp_err_t]) -> Set<Int32> {
    Set(errors.map(\.rawValue))
  }

  /// The library's words.
  static func text(_ error: rd_kafka_resp_err_t) -> String {
    unsafe String(cString: rd_kafka_err2str(error))
  }
}
