// Brokers of Kafka's protocol on loopback: librdkafka's mock cluster. Prints the brokers' addresses, then obeys a line of
// standard input at a time and answers each with "ok" or why not; ends with the end of the input.
//
//   kafka_mock BROKERS
//
//   topic NAME PARTITIONS            makes a topic
//   down BROKER, up BROKER           -1: all of them. Down, a broker has no connections and takes none; what it has stays
//   errors REQUEST CODE...           the next requests of a kind, by the protocol's number, fail, one by each code
//   topic-error NAME CODE            what is said of a topic when it is asked for; 0: nothing
//   delay BROKER MILLISECONDS        of every answer
//   leader NAME PARTITION BROKER     who leads a partition; -1: nobody
//   coordinator GROUP BROKER         who coordinates a group of consumers
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS_MAX = 64 };

static rd_kafka_resp_err_t push_errors(rd_kafka_mock_cluster_t *cluster, char **words, int count) {
  rd_kafka_resp_err_t codes[WORDS_MAX];
  for (int i = 2; i < count; i++) codes[i - 2] = (rd_kafka_resp_err_t)atoi(words[i]);
  rd_kafka_mock_push_request_errors_array(cluster, (int16_t)atoi(words[1]), count - 2, codes);
  return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static const char *obey(rd_kafka_mock_cluster_t *cluster, char **words, int count) {
  const char *command = count > 0 ? words[0] : "";
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  if (!strcmp(command, "topic") && count == 3)
    error = rd_kafka_mock_topic_create(cluster, words[1], atoi(words[2]), 1);
  else if (!strcmp(command, "down") && count == 2)
    error = rd_kafka_mock_broker_set_down(cluster, atoi(words[1]));
  else if (!strcmp(command, "up") && count == 2)
    error = rd_kafka_mock_broker_set_up(cluster, atoi(words[1]));
  else if (!strcmp(command, "errors") && count > 2)
    error = push_errors(cluster, words, count);
  else if (!strcmp(command, "topic-error") && count == 3)
    rd_kafka_mock_topic_set_error(cluster, words[1], (rd_kafka_resp_err_t)atoi(words[2]));
  else if (!strcmp(command, "delay") && count == 3)
    error = rd_kafka_mock_broker_set_rtt(cluster, atoi(words[1]), atoi(words[2]));
  else if (!strcmp(command, "leader") && count == 4)
    error = rd_kafka_mock_partition_set_leader(cluster, words[1], atoi(words[2]), atoi(words[3]));
  else if (!strcmp(command, "coordinator") && count == 3)
    error = rd_kafka_mock_coordinator_set(cluster, "group", words[1], atoi(words[2]));
  else
    return "no such command";
  return error ? rd_kafka_err2str(error) : "ok";
}

int main(int argc, char **argv) {
  char text[512], line[4096];
  rd_kafka_conf_t *configuration = rd_kafka_conf_new();
  // The client that the cluster lives in has no servers of its own, and need not say so.
  rd_kafka_conf_set(configuration, "log_level", "3", text, sizeof text);
  rd_kafka_t *client = rd_kafka_new(RD_KAFKA_PRODUCER, configuration, text, sizeof text);
  if (!client) {
    fprintf(stderr, "%s\n", text);
    return 1;
  }
  rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(client, argc > 1 ? atoi(argv[1]) : 1);
  if (!cluster) {
    fprintf(stderr, "no cluster\n");
    return 1;
  }
  printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
  fflush(stdout);
  while (fgets(line, sizeof line, stdin)) {
    char *words[WORDS_MAX], *rest = line;
    int count = 0;
    while (count < WORDS_MAX && (words[count] = strtok(rest, " \n"))) {
      rest = NULL;
      count++;
    }
    printf("%s\n", obey(cluster, words, count));
    fflush(stdout);
  }
  rd_kafka_mock_cluster_destroy(cluster);
  rd_kafka_destroy(client);
  return 0;
}
