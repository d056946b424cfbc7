// Why a broker ends a channel or a connection, and what that means for whoever publishes and consumes.
internal import CRabbitMQ
internal import Messaging

/// The reason of channel.close and connection.close.
struct CloseReason: Equatable {
  /// AMQP 0-9-1's reply codes, such as 404.
  var code: UInt16
  var text: String
  /// The method that it is about, class and number; 0: about none.
  var method: UInt32

  /// AMQP 0-9-1, section 1.2.
  private enum Code {
    static let contentTooLarge: UInt16 = 311
    static let accessRefused: UInt16 = 403
    static let notFound: UInt16 = 404
    static let resourceLocked: UInt16 = 405
    static let preconditionFailed: UInt16 = 406
    static let commandInvalid: UInt16 = 503
    static let notAllowed: UInt16 = 530
    static let notImplemented: UInt16 = 540
  }

  private var words: String { plainWords(text).isEmpty ? "code \(code)" : plainWords(text) }

  /// - Parameter asked: what the broker was asked for, in words; nil: messages were on their way.
  func errorOfConnection(asked: String?) -> BrokerError {
    let about = asked.map { "\($0): " } ?? ""
    switch code {
    case Code.accessRefused, Code.notAllowed, Code.notImplemented: return .unsuitable(about + words)
    // So RabbitMQ says that it knows no exchange of a type.
    case Code.commandInvalid where asked != nil: return .unsuitable(about + words)
    default: return .away("the broker ends the connection: \(words)")
    }
  }

  func errorOfChannel(asked: String?) -> BrokerError {
    if let asked {
      switch code {
      case Code.accessRefused, Code.notFound, Code.resourceLocked, Code.preconditionFailed,
        Code.notAllowed, Code.notImplemented:
        return .unsuitable("\(asked): \(words)")
      default: return .away("\(asked): \(words)")
      }
    }
    switch code {
    case Code.accessRefused, Code.notFound: return .unsuitable(words)
    case Code.contentTooLarge: return .messageRefused(reason: "MESSAGE_TOO_LARGE", text: words)
    case _ where method == AMQP_BASIC_PUBLISH_METHOD:
      // "message size N is larger than configured max size M"
      let isSize = code == Code.preconditionFailed && text.contains("size")
      return .messageRefused(reason: isSize ? "MESSAGE_TOO_LARGE" : "REJECTED", text: words)
    // Such as an acknowledgement that took too long: the delivery comes again.
    default: return .away("the broker ends the channel: \(words)")
    }
  }
}

/// Words of a broker's, in one line of a log.
func plainWords(_ text: String) -> String {
  String(text.unicodeScalars.prefix(500).map { $0.properties.isPrintable ? Character($0) : " " })
}

extension Unicode.Scalar.Properties {
  /// No control character and nothing that turns the direction of writing.
  fileprivate var isPrintable: Bool {
    switch generalCategory {
    case .control, .format, .surrogate, .unassigned, .privateUse, .lineSeparator,
      .paragraphSeparator:
      false
    default: true
    }
  }
}
