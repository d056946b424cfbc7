// A connection to RabbitMQ.
internal import CRabbitMQ
internal import Messaging
