// A connection to Kafka.
internal import CKafka
internal import Messaging
