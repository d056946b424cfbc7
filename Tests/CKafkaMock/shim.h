// librdkafka's mock cluster: brokers of Kafka's protocol within this process, whose faults a test orders.
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
