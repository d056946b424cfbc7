// The outbox: decisions of a server, published to a broker.
internal import Messaging
