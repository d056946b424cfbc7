// The system's librdkafka, a client of Kafka.
#include <librdkafka/rdkafka.h>

// rd_kafka_producev() takes a list of arguments of any length, which Swift cannot call. Copies key and body; the headers
// are the library's where it returns no error, and stay the caller's otherwise.
static inline rd_kafka_resp_err_t holdfast_kafka_produce(
    rd_kafka_t *client, rd_kafka_topic_t *topic, const void *key, size_t key_size,
    const void *body, size_t body_size, int64_t milliseconds, rd_kafka_headers_t *headers,
    void *opaque) {
  return rd_kafka_producev(
      client, RD_KAFKA_V_RKT(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
      RD_KAFKA_V_KEY(key, key_size), RD_KAFKA_V_VALUE((void *)body, body_size),
      RD_KAFKA_V_TIMESTAMP(milliseconds), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(opaque),
      RD_KAFKA_V_END);
}
