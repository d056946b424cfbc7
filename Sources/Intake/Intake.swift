// Orders from a broker, reserved and answered.
internal import Messaging
